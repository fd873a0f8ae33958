"""What is written down of runs: records of nodes, and notes of the run and the node at work."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from .versions import is_version

FORMAT = 2
DEEPEST = 150  # nesting of bookkeeping; what compares it recurses, and Python allows a thousand calls

T = TypeVar("T")


def _checked(name: str) -> str:
    if not is_version(name):
        raise ValueError("no name of a version")
    return name


VersionName = Annotated[str, AfterValidator(_checked)]


@dataclass(frozen=True)
class Artifact:
    """Content of a dataset as a node read or wrote it.

    Attributes:
        version: Kedro version; None for a dataset without versions.
        digest: hash of the content; for one that is not a file, of the work that made it.
        path: file or folder, empty for one that is not a file.
    """

    version: VersionName | None
    digest: str
    path: str = ""


@dataclass(frozen=True)
class Work:
    """All that decides what a node makes; two equal works make the same.

    Attributes:
        wiring: which dataset is which argument, and which output.
        code: hash by module of the project that the node's function, datasets and hooks reach; ``values of <module>``
            where others have set some.
        libraries: version by library.
        parameters: values by ``params:`` name.
        files: content by file or folder that a parameter names.
        datasets: settings of the catalog by dataset, without places and credentials.
        inputs: content by dataset.
        opened: content by file or folder (it ends in ``/``) outside of the catalog that the node was seen to read.
        imported: modules that it was seen to import.
    """

    wiring: Any
    code: dict[str, str]
    libraries: dict[str, str]
    parameters: dict[str, Any]
    files: dict[str, str]
    datasets: dict[str, Any]
    inputs: dict[str, Artifact] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeRecord:
    """A successful run of a node: what went in, what came out, and why it ran."""

    node: str
    run_id: VersionName
    key: str
    work: Work
    outputs: dict[str, Artifact]
    seconds: float
    finished: str
    why: str


@dataclass(frozen=True)
class Records:
    """Content of the manifest, and of the history of a run."""

    format: int
    nodes: dict[str, NodeRecord]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"it has the format {self.format}, not {FORMAT}")
        if any(name != record.node for name, record in self.nodes.items()):
            raise ValueError("a record stands under the name of another node")


@dataclass(frozen=True)
class Started:
    """Note of the node at work: what it may leave unfinished."""

    run_id: VersionName
    node: str
    pid: int
    folders: list[str]


@dataclass(frozen=True)
class Holder:
    """What the run that holds the lock, or died holding it, says of itself."""

    pid: int
    run_id: VersionName
    command: str
    killed: list[VersionName]


RECORDS, STARTED, HOLDER = TypeAdapter(Records), TypeAdapter(Started), TypeAdapter(Holder)


class Unreadable(ValueError):
    """A file of the bookkeeping is not what the runner writes."""


def read_json(path: Path, shape: TypeAdapter[T]) -> T | None:
    """Read a small JSON file and check the types in it; None if there is none.

    Raises:
        Unreadable: if it is no regular file, cannot be opened, is no JSON, or has other types; the reason in one line.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # a folder, a link to nothing, or a named pipe, which would wait for a writer for ever
        raise Unreadable("not a file")
    try:
        content = json.loads(path.read_bytes())
        if _deeper(content, DEEPEST):
            raise Unreadable("nested too deeply")
        return shape.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Unreadable(f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from error
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error).partition("\n")[0]) from error


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
