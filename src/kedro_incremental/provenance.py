"""Where an artifact comes from, back to the raw files; and the deletion of versions that nothing current comes from."""

import difflib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline
from rich.text import Text
from rich.tree import Tree

from . import storage
from .canonical_json import digest, leaves, short
from .change_detection import base_name, is_parameter
from .manifest import Artifact, Manifest, NodeRecord, RunnerError
from .redaction import redacted
from .report import as_text

PRUNED = ".pruned"  # end of the hidden name of a version that is being deleted


@dataclass
class Provenance:
    """Records by the (dataset, version) that they made, and the version of each dataset in the manifest."""

    records: dict[tuple[str, str | None], NodeRecord]
    current: dict[str, str | None]

    @classmethod
    def read(cls, manifest: Manifest) -> "Provenance":
        """All records of the manifest."""
        records = {
            (name, artifact.version): record
            for run in manifest.history().values()
            for record in run.values()
            for name, artifact in record.outputs.items()
        }
        made = [each for record in manifest.records.values() for each in record.outputs.items()]
        return cls(records, {name: artifact.version for name, artifact in made})

    def ancestors(self, dataset: str, version: str | None) -> set[tuple[str, str | None]]:
        """Versions that a version was made from, directly or not."""
        todo, found = [(dataset, version)], set()
        while todo:
            record = self.records.get(todo.pop())
            for name, artifact in record.inputs.artifacts.items() if record else ():
                if (name, artifact.version) not in found:
                    found.add((name, artifact.version))
                    todo.append((name, artifact.version))
        return found


def explain(manifest: Manifest, dataset: str, version: str | None = None, known: Collection[str] = ()) -> Tree:
    """Tree of what made a version of a dataset (unless given, the one in the manifest), and what made its inputs.

    ``known`` are datasets that the project's pipelines make, of which a message suggests one. That no recorded run made
    the dataset is a RunnerError.
    """
    provenance, name = Provenance.read(manifest), base_name(dataset)
    versions = sorted((made for made in provenance.records if made[0] == name), key=str, reverse=True)
    if not versions:
        close = difflib.get_close_matches(name, {*known, *(made for made, _ in provenance.records)}, n=1)
        hint = (
            f": `kedro run --to-outputs {name}` does"
            if name in known
            else "".join(f": did you mean {one!r}?" for one in close)
        )
        raise RunnerError(f"no recorded run made {name!r}{hint}")
    version = provenance.current.get(name, versions[0][1]) if version is None else version
    record = provenance.records.get((name, version))
    if record is None:
        known = ", ".join(str(each) for _, each in versions[:5])
        raise RunnerError(f"no recorded run made the version {version} of {name}; known: {known}")
    tree, inputs = Tree(_label(name, record.outputs[name], provenance)), record.inputs
    after = as_text(f" in {record.seconds:.1f} s, finished {record.finished}", "not bold")
    tree.add(as_text("made by the node ") + as_text(record.node, "bold") + after)
    tree.add(as_text(f"in the run {record.run_id}, because: {redacted(record.why)}"))
    n_modules = sum(not name.startswith("values of ") for name in inputs.code)
    tree.add(f"code {digest(''.join(inputs.code.values()))}: {n_modules} modules")
    tree.add(as_text("libraries " + ", ".join(f"{name} {version}" for name, version in inputs.libraries.items())))
    parameters = tree.add("parameters")
    for leaf, value in (pair for block, values in inputs.parameters.items() for pair in leaves(values, block)):
        parameters.add(as_text(f"{leaf} = {short(value)}"))
    for path, hashed in inputs.files.items():
        tree.add(as_text(f"file {path}, content {hashed[:12]}"))
    _add_inputs(tree.add("inputs"), record, provenance, set())
    return tree


def _label(name: str, artifact: Artifact, provenance: Provenance) -> Text:
    current = "" if provenance.current.get(name) == artifact.version else ", not the current one"
    about = f"  version {artifact.version or 'none'}{current}, content {artifact.digest[:12]}"
    return as_text(name, "bold") + as_text(about, "not bold")


def _add_inputs(tree: Tree, record: NodeRecord, provenance: Provenance, seen: set[tuple[str, str | None]]) -> None:
    for name, artifact in record.inputs.artifacts.items():
        maker = provenance.records.get((name, artifact.version))
        branch = tree.add(_label(name, artifact, provenance))
        if (name, artifact.version) in seen:
            branch.add("as above")
        elif maker is None:
            branch.add(as_text(f"not made by a recorded run: {artifact.path or 'no file'}"))
        else:
            seen.add((name, artifact.version))
            branch.add(as_text(f"made by {maker.node} in the run {maker.run_id}, because: {redacted(maker.why)}"))
            _add_inputs(branch, maker, provenance, seen)


@dataclass(frozen=True)
class Removal:
    """A version of a dataset to delete: its folder, and the bytes in it."""

    dataset: str
    version: str
    folder: Path
    size: int


def find_removals(catalog: Any, pipelines: Iterable[Pipeline], manifest: Manifest, keep: int) -> list[Removal]:
    """Versions on this machine beyond the newest ``keep`` of each dataset that nothing kept comes from, oldest first.

    Kept are: the newest ``keep`` versions of each dataset, those in the manifest, and every version that one of these
    was made from, directly or not.

    Raises:
        RunnerError: if ``keep`` is less than one.
    """
    if keep < 1:
        raise RunnerError(f"keep must be at least 1, got {keep}")
    names = {name for pipeline in pipelines for name in pipeline.datasets() if not is_parameter(name)}
    found = {base_name(name): storage.storage_of(catalog.get(name)) for name in sorted(names) if name in catalog}
    local = {name: each for name, each in found.items() if each and each.versioned and each.filesystem is None}
    versions = {name: each.versions() for name, each in local.items()}
    provenance = Provenance.read(manifest)
    kept: set[tuple[str, str | None]] = set(provenance.current.items())
    kept |= {(name, version) for name, there in versions.items() for version in there[:keep]}
    kept = kept.union(*(provenance.ancestors(*each) for each in kept))
    removals = []
    for name, each in local.items():
        renamed = [one.name for one in Path(each.path).glob(f".*{PRUNED}") if one.is_dir()]  # by a killed call
        for version in [*versions[name], *renamed]:
            if (name, version) not in kept:
                folder = Path(each.path, version)
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                removals.append(Removal(name, version, folder, size))
    return sorted(removals, key=lambda removal: (removal.version, removal.dataset))


def remove(removals: Iterable[Removal], manifest: Manifest) -> None:
    """Delete the versions, and the records that have no output left.

    The records go first, and each folder is renamed before it is emptied: a kill at any point leaves no record of what
    is gone and no half a version, and the next call deletes the rest.

    Raises:
        RunnerError: if a folder cannot be deleted.
    """
    todo = list(removals)
    going = {(removal.dataset, removal.version) for removal in todo}
    current = {(record.node, record.run_id) for record in manifest.records.values()}
    for run_id, records in manifest.history().items():
        stale = {
            record.node
            for record in records.values()
            if record.outputs and (record.node, record.run_id) not in current
            if all((name, made.version) in going or _is_gone(made) for name, made in record.outputs.items())
        }
        if stale:
            manifest.forget(run_id, stale)
    for removal in todo:
        folder = removal.folder
        try:
            if not folder.name.endswith(PRUNED):
                folder = folder.rename(folder.with_name(f".{folder.name}{PRUNED}"))
            storage.remove(folder)
        except OSError as error:
            raise RunnerError(f"cannot delete {folder}: {error.strerror or error}") from error


def _is_gone(made: Artifact) -> bool:
    """Whether a version was deleted: its dataset is still where the record says, without it."""
    path = Path(made.path)
    return bool(made.path and made.version) and path.parent.parent.is_dir() and not os.path.lexists(path)
