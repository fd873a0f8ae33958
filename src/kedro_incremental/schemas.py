"""What is written down of runs: records of nodes, and notes of the run and the node at work."""

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from .versions import checked

DEEPEST = 150  # nesting of bookkeeping; what compares it recurses, and Python allows a thousand calls

T = TypeVar("T")

VersionName = Annotated[str, AfterValidator(checked)]


@dataclass(frozen=True)
class Artifact:
    """Content of a dataset as a node read or wrote it."""

    version: VersionName | None  # of Kedro
    digest: str  # hash of the content; for one that is not a file, of the work that made it
    path: str = ""  # file or folder, empty for one that is not a file


@dataclass(frozen=True)
class Work:
    """All that decides what a node makes; two equal works make the same."""

    wiring: Any  # which dataset is which argument, and which output
    # Hash by module that the function, datasets and hooks reach; "values of <module>" where others have set some.
    code: dict[str, str]
    libraries: dict[str, str]  # version by library
    parameters: dict[str, Any]  # values by "params:" name
    files: dict[str, str]  # content by file or folder that a parameter names
    datasets: dict[str, Any]  # settings of the catalog by dataset, without places and credentials
    inputs: dict[str, Artifact] = field(default_factory=dict)  # by dataset
    # Content by file, or folder (it ends in "/"), outside of the catalog that the node was seen to read.
    opened: dict[str, str] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)  # modules that it was seen to import


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

    @cached_property
    def json(self) -> str:
        """The record as text; kept, as the manifest is written after each node with all other records as before."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Records:
    """Content of the manifest, and of the history of a run."""

    format: Literal[2]
    nodes: dict[str, NodeRecord]

    def __post_init__(self) -> None:
        if any(name != record.node for name, record in self.nodes.items()):
            raise ValueError("a record stands under the name of another node")


@dataclass(frozen=True)
class Note:
    """What a run notes for the case that it is killed: that it holds the lock, and the node at work."""

    run_id: VersionName
    pid: int
    command: str = ""  # its command line, without secrets
    killed: list[VersionName] = field(default_factory=list)  # the runs before it that held the lock until then
    node: str = ""
    folders: list[str] = field(default_factory=list)  # versions that the node may leave unfinished


RECORDS, NOTE = TypeAdapter(Records), TypeAdapter(Note)


class Unreadable(ValueError):
    """A file of the bookkeeping is not what the runner writes."""


def read_json(path: Path, shape: TypeAdapter[T]) -> T | None:
    """Read a small JSON file and check the types in it; None if there is none.

    Raises:
        Unreadable: if it is no regular file, cannot be opened, is no JSON, or has other types; the reason in one line.
    """
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():  # a folder, a link to nothing, or a named pipe, which would wait for a writer for ever
            raise Unreadable("not a file")
        content = json.loads(path.read_bytes())
        if _is_deeper(content, DEEPEST):
            raise Unreadable("nested too deeply")
        return shape.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Unreadable(f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(str(getattr(error, "strerror", error)).partition("\n")[0]) from error


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(item, levels - 1) for item in inner)
