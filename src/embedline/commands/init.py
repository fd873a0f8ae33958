"""``init``: look at a file and write the catalog entry, the parameters and the line of sources.yml that it needs."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedline.errors import DataError, did_you_mean
from embedline.paths import project_root
from embedline.sources import FILE, read_sources

if TYPE_CHECKING:
    import pandas as pd

    from embedline.pipelines.tabular.roles import InferredRoles

SNIFFED = 65_536  # bytes of a CSV file by which its separator is found
DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d")
DECIMAL_COMMA = re.compile(r"-?\d+,\d+|-?\d+")
FEW_ROWS = 1_000  # of a table whose rows are all held out in turn
SKEWED = 1.0  # skewness from which on a positive target is learned as a logarithm
DATASETS = {".parquet": "pandas.ParquetDataset", ".feather": "pandas.FeatherDataset"}  # else pandas.CSVDataset
TEXT_BLOCKS = """  vocabulary: {min_freq: 2} # a word that comes once is unknown
  # Small networks, which two CPU cores train in minutes.
  language_model: {embedding_size: 100, hidden_size: 200, n_layers: 2, drop_mult: 0.3}
  language_model_training: {epochs: 3, batch_size: 16, bptt: 35, lr: 0.01}
"""
CLASSIFIER_BLOCKS = """  classifier: {drop_mult: 0.3}
  classifier_training:
    batch_size: 32
    rate_decay: 1.5
    stages: [{unfrozen: 1, epochs: 1, lr: 0.02}, {unfrozen: null, epochs: 4, lr: 0.01}]
"""


@dataclass
class Written:
    """What ``init`` writes: the files' contents, and lines that say what was found."""

    source: str  # line of sources.yml
    parameters: str
    catalog: str = ""
    said: list[str] = field(default_factory=list)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="Of the source; that of the file unless given.")
@click.option("--target", help="Column to predict: PATH is a table.")
@click.option(
    "--text", multiple=True, help="Column of texts, several times for several: PATH holds texts, as a folder."
)
@click.option("--label", help="Column of the texts' classes; without one a language model is learned.")
@click.option("--user", help="Column of users: PATH holds ratings, or events without --rating.")
@click.option("--item", help="Column of items.")
@click.option("--rating", help="Column of ratings.")
@click.option("--timestamp", help="Column of the time of a rating.")
def init(
    path: Path,
    name: str | None,
    target: str | None,
    text: tuple[str, ...],
    label: str | None,
    user: str | None,
    item: str | None,
    rating: str | None,
    timestamp: str | None,
) -> None:
    """Make a source of PATH: a table (--target), texts (--text, or a folder) or ratings (--user, --item).

    Looks at the file, and writes an entry of the catalog, parameters with a comment at each choice, and a line in
    conf/base/sources.yml. The file stays where it is.
    """
    root = project_root()
    if not (root / "conf/base").is_dir():
        raise DataError(f"there is no folder conf/base in {root}: call it in the project's folder")
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    name = _free_name(name or re.sub(r"\W+", "_", path.stem).strip("_").lower(), root)
    place = path.resolve()
    place = place.relative_to(root) if place.is_relative_to(root) else place
    kinds = [target is not None, bool(text) or path.is_dir(), user is not None or item is not None]
    if sum(kinds) != 1:
        columns = "" if path.is_dir() else f"; the columns are {', '.join(_open(path)[1].columns)}"
        raise click.UsageError(f"say what to learn: --target COLUMN, --text COLUMN, or --user and --item{columns}")
    if target is not None:
        written = _table(name, path, place, target)
    elif kinds[1]:
        written = _texts(name, path, place, text, label)
    else:
        named = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
        written = _ratings(name, path, place, named)
    files = {f"conf/base/parameters/{name}.yml": written.parameters, f"conf/base/catalog/{name}.yml": written.catalog}
    for file, content in files.items():
        if content:
            (root / file).write_text(content, encoding="utf-8")
            click.echo(f"Wrote {file}")
    sources = root / FILE
    before = sources.read_text(encoding="utf-8") if sources.exists() else ""
    sources.write_text(f"{before}{written.source}\n", encoding="utf-8")
    click.echo(f"Added to {FILE}: {written.source}")
    for line in written.said:
        click.echo(line)
    click.echo(f"Next: embedline run {name}")


def _free_name(name: str, root: Path) -> str:
    from kedro.framework.project import pipelines

    name = name if name[:1].isalpha() else f"data_{name}".rstrip("_")
    if not name.isidentifier():
        raise DataError(f"--name {name!r}: a name has letters, digits and _")
    taken = [*pipelines, *read_sources()]
    if name in taken or (root / f"conf/base/parameters/{name}.yml").exists():
        raise DataError(f"there is a source {name!r} already: give another --name")
    return name


def _open(path: Path) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """``load_args`` of the file, and its rows, every column of dates read as such."""
    import pandas as pd

    try:
        if path.suffix in DATASETS:
            return {}, pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_feather(path)
        given: dict[str, Any] = {}
        if b"\0" in path.read_bytes()[:SNIFFED]:
            raise ValueError("it is no text: save it as a CSV, Parquet or Feather file")
        try:
            sample = path.read_bytes()[:SNIFFED].decode("utf-8", errors="strict")
        except UnicodeDecodeError as error:
            if error.start < SNIFFED - 4:
                given["encoding"] = "cp1252"
            sample = path.read_bytes()[:SNIFFED].decode(given.get("encoding", "utf-8"), errors="ignore")
        try:
            separator = csv.Sniffer().sniff(sample, delimiters=",;\t|").delimiter
        except csv.Error:  # one column
            separator = ","
        if separator != ",":
            given["sep"] = separator
        frame = pd.read_csv(path, **given)
        if separator == ";" and any(_all_match(frame[name], DECIMAL_COMMA) for name in _strings(frame)):
            given["decimal"] = ","
            frame = pd.read_csv(path, **given)
        if formats := {name: found for name in _strings(frame) if (found := _date_format(frame[name]))}:
            given |= {"parse_dates": list(formats), "date_format": formats}
            frame = pd.read_csv(path, **given)
    except (OSError, ValueError) as error:  # a parser's errors are of the latter
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return given, frame


def _strings(frame: "pd.DataFrame") -> list[str]:
    return [name for name in frame.columns if frame[name].dropna().map(lambda value: isinstance(value, str)).all()]


def _all_match(values: "pd.Series", pattern: re.Pattern[str]) -> bool:
    present = values.dropna()
    return len(present) > 0 and all(pattern.fullmatch(value) for value in present)


def _date_format(values: "pd.Series") -> str | None:
    """The first format that all values of a column of strings have."""
    present = values.dropna().unique()
    for shape in DATE_FORMATS:
        try:
            for value in present:
                datetime.strptime(value, shape)
        except ValueError:
            continue
        return shape if len(present) else None
    return None


def _require(frame: "pd.DataFrame", path: Path, **options: str | None) -> None:
    for option, column in options.items():
        if column is not None and column not in frame.columns:
            raise DataError(f"--{option} {column}: {path} has no such column{did_you_mean(column, [*frame.columns])}")


def _catalog(name: str, path: Path, place: Path, load_args: dict[str, Any], frame: str) -> str:
    kind = DATASETS.get(path.suffix, "pandas.CSVDataset")
    lines = [f"{name}.{frame}:", f"  type: {kind}", f"  filepath: {json.dumps(place.as_posix(), ensure_ascii=False)}"]
    if load_args:
        lines += ["  load_args:", *(f"    {key}: {_yaml(value)}" for key, value in load_args.items())]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML


def _heading(path: Path, what: str) -> str:
    return f"# Written by `embedline init {path.name}` from {what}: every choice may be changed."


def _table(name: str, path: Path, place: Path, target: str) -> Written:
    from embedline.pipelines.tabular.columns import FEW_NUMBERS, Columns, Split, read_table
    from embedline.pipelines.tabular.roles import infer_roles

    load_args, frame = _open(path)
    _require(frame, path, target=target)
    values, n_rows = frame[target].dropna(), len(frame)
    few = n_rows < FEW_ROWS
    is_number = values.dtype.kind in "if"
    is_class = not is_number or (values.dtype.kind == "i" and values.nunique() <= FEW_NUMBERS)
    given: dict[str, Any] = {"classes": [target]} if is_class and is_number else {}
    columns, split = Columns(target=target, inputs="auto", **given), Split(kind="none" if few else "random")
    roles = infer_roles(read_table(frame, columns, split), columns, split)
    share = len(values) / n_rows
    what = f"{values.nunique()} classes" if is_class else f"numbers, {values.min():g} to {values.max():g}"
    gaps = "" if share == 1 else f"; rows without one ({1 - share:.0%}) are predicted, not learned from"
    lines = [_heading(path, f"{n_rows:,} rows"), f"{name}:"]
    lines += ["  columns:", f"    target: {_yaml(target)} # {what}{gaps}"]
    if given:
        lines += [
            f"    classes: {_yaml([target])} # few whole numbers; take the line out to predict them as a quantity"
        ]
    lines += _role_lines(roles, frame)
    lines += ["  split:"]
    if few:
        lines += ["    {kind: folds, n: 5} # every row is held out in turn: there are few; random to publish a service"]
    else:
        lines += ["    {kind: random, fraction: 0.2} # a fifth of the rows, drawn at random, is held out"]
    if dates := roles.columns.dates:
        lines += [f"    # to forecast: {{kind: window, column: {_yaml(dates[0])}, start: 2026-01-01, end: 2026-02-28}}"]
    if not is_class and (values > 0).all() and float(values.astype(float).skew()) > SKEWED:  # type: ignore[arg-type]
        lines += ["  encoding: {target_transform: log} # the target is positive and skewed: relative errors count"]
    lines += ["  # network and training are left out: both follow the number of rows"]
    counts = {role: len(getattr(roles.columns, role)) for role in ("categorical", "continuous", "dates", "text", "id")}
    said = [f"{n_rows:,} rows; {', '.join(f'{role} {count}' for role, count in counts.items() if count)}"]
    said += [f"Left out: {column}: {reason}" for column, reason in roles.left_out.items()]
    catalog = _catalog(name, path, place, load_args, "table")
    return Written(f"{name}: {{learner: tabular}}", "\n".join(lines) + "\n", catalog, said)


def _role_lines(roles: "InferredRoles", frame: "pd.DataFrame") -> list[str]:
    lines = []
    for role in ("categorical", "continuous", "dates", "text", "id"):
        names: Sequence[str] = getattr(roles.columns, role)
        if names:
            lines += [f"    {role}:", *(f"      - {_yaml(name)} # {_describe(frame[name], role)}" for name in names)]
    return [*lines, *(f"    # {name} is left out: {reason}" for name, reason in roles.left_out.items())]


def _describe(values: "pd.Series", role: str) -> str:
    """What a column holds, for a comment of one line."""
    present = values.dropna()
    missing = f", {1 - len(present) / len(values):.0%} missing" if len(present) < len(values) else ""
    if role == "continuous":
        return f"number, {present.min():g} to {present.max():g}{missing}"
    if role == "dates":
        return f"date, {present.min():%Y-%m-%d} to {present.max():%Y-%m-%d}{missing}"
    if role == "text":
        return f"text, {present.map(lambda text: len(text.split())).mean():.0f} words on average{missing}"
    if present.map(lambda value: isinstance(value, bool)).all():
        return f"boolean{missing}"
    shown = " ".join(str(present.iloc[0]).split())[:30]
    return f"{present.nunique():,} {'ids' if role == 'id' else 'categories'}, such as {shown}{missing}"


def _texts(name: str, path: Path, place: Path, text: tuple[str, ...], label: str | None) -> Written:
    lines = [_heading(path, "the texts"), f"{name}:", f"  source: {_yaml(place.as_posix())}"]
    if path.is_dir():
        texts = [file.relative_to(path).parts for file in path.rglob("*.txt")]
        if not texts:
            raise DataError(f"{path} holds no text file (.txt): for a table of texts give the file and --text COLUMN")
        classes, what = sorted({parts[-2] for parts in texts if len(parts) > 1}), f"{len(texts):,} text files"
        is_split = any(len(parts) > 2 for parts in texts)
    else:
        _, frame = _open(path)
        for column in text:
            _require(frame, path, text=column)
        _require(frame, path, label=label)
        classes, what = sorted(frame[label].dropna().astype(str).unique()) if label else [], f"{len(frame):,} rows"
        is_split = "split" in frame.columns
    lines += [
        f"  classes: {_yaml(classes)} # {'labels' if classes else 'no labels: a language model alone'}",
        "  reading:",
    ]
    if not path.is_dir():
        lines += [f"    text_columns: {_yaml(text)}", f"    label_column: {_yaml(label)}"]
    lines += [f"    test_fraction: {0.0 if is_split or not classes else 0.2} # of the texts is held out"]
    body = "\n".join(lines) + "\n" + TEXT_BLOCKS + (CLASSIFIER_BLOCKS if classes else "")
    said = [f"{what}, {len(classes)} classes" if classes else f"{what} without labels"]
    return Written(f"{name}: {{learner: {'text' if classes else 'language_model'}}}", body, "", said)


def _ratings(name: str, path: Path, place: Path, named: dict[str, str | None]) -> Written:
    if named["user"] is None or named["item"] is None:
        raise click.UsageError("ratings need both --user COLUMN and --item COLUMN")
    load_args, frame = _open(path)
    _require(frame, path, **named)
    columns = _yaml({**named, "title": None})
    lines = [_heading(path, f"{len(frame):,} rows"), f"{name}:", f"  columns: {columns}"]
    if named["timestamp"]:
        lines += ["  split: {kind: latest, fraction: 0.2} # the last fifth of each user's rows is held out"]
    else:
        lines += ["  split: {kind: random, fraction: 0.2} # a fifth of the rows, drawn at random, is held out"]
    if named["rating"] is None:
        option, what = ", events: true", "events"
    else:
        values, option, what = frame[named["rating"]], "", "ratings"
        lines += [f"  rating_range: auto # here {values.min():g} to {values.max():g}"]
        lines += [f"  ranking: {{relevant: {values.quantile(0.6):g}}} # from this rating on an item is relevant"]
        lines += [
            "  training: {epochs: 10, batch_size: 128, lr: 0.003, penalty: {factors: 0.09, biases: 0.01}, seeds: 2}"
        ]
    users, items = (frame[named[key]].nunique() for key in ("user", "item"))
    said = [f"{len(frame):,} {what} of {users:,} users and {items:,} items"]
    catalog = _catalog(name, path, place, load_args, "ratings")
    return Written(f"{name}: {{learner: ratings{option}}}", "\n".join(lines) + "\n", catalog, said)
