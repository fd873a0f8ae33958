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
    """What a run leaves of itself for the case that it is killed: of the lock that it holds, and of the node at work.

    Attributes:
        run_id: what trackers know the run by, and the version that it writes.
        pid: its process.
        command: its command line, without secrets.
        killed: runs before it that held the lock until they were killed.
        node: name of the node at work.
        folders: versions that the node may leave unfinished.
    """

    run_id: VersionName
    pid: int
    command: str = ""
    killed: list[VersionName] = field(default_factory=list)
    node: str = ""
    folders: list[str] = field(default_factory=list)


RECORDS, NOTE = TypeAdapter(Records), TypeAdapter(Note)
