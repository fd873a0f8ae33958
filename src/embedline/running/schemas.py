"""What is written down of runs: records of nodes, and notes of the run and the node at work."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, TypeAdapter

from .versions import checked

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
