"""Sources that are declared in ``conf/base/sources.yml``: a name, a learner and its options, and no line of Python."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from embedline.errors import DataError, refused_setting
from embedline.paths import project_root

FILE = "conf/base/sources.yml"
Learner = Literal["tabular", "text", "language_model", "ratings", "images"]
OPTIONS: dict[Learner, set[str]] = {  # of each learner
    "tabular": {"table", "backtest"},
    "text": {"documents", "language_model"},
    "language_model": {"documents"},
    "ratings": {"items", "users", "events"},
    "images": set(),
}


class Source(BaseModel):
    """A source of one's own.

    Attributes:
        learner: of numbers or classes in a table; of classes of texts; of texts alone; of ratings; of pictures.
        table: dataset of a table; ``<source>.table`` unless given.
        backtest: whether there is a ``<source>_backtest``, by the parameters ``backtest``.
        documents: dataset of documents; unless given, the files that the parameter ``source`` names are read.
        language_model: stored language model to start from, such as ``imdb.language_model``.
        items, users: whether there are frames ``<source>.items`` and ``<source>.users`` with what describes them.
        events: whether ``<source>.ratings`` has events without ratings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learner: Learner
    table: str | None = None
    backtest: bool = False
    documents: str | None = None
    language_model: str | None = None
    items: bool = False
    users: bool = False
    events: bool = False

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        allowed = OPTIONS[self.learner]
        if strange := sorted(self.model_fields_set - {"learner"} - allowed):
            raise ValueError(f"the learner {self.learner!r} has no option {strange[0]!r}, only {sorted(allowed)}")
        return self


def read_sources(path: Path | None = None) -> dict[str, Source]:
    """The declared sources by name; none where there is no such file.

    Raises:
        DataError: naming the file, and the source and the key that is refused.
    """
    path = path or project_root() / FILE
    if not path.exists():
        return {}
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeError) as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise DataError(f"{path} holds no sources by name, such as `flats: {{learner: tabular}}`")
    return {str(name): _read_source(path, str(name), block) for name, block in given.items()}


def _read_source(path: Path, name: str, block: Any) -> Source:
    if not name.isidentifier() or name.startswith("_"):
        raise DataError(f"{path}: the source {name!r} needs a name of letters, digits and _ that starts with a letter")
    try:
        return Source.model_validate(block)
    except ValidationError as error:
        raise DataError(f"{path}: {refused_setting(name, Source, error)}") from error
