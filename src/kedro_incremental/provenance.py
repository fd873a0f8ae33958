"""Where an artifact comes from: the record of the node that made it, and those of its inputs."""

import difflib
from dataclasses import dataclass

from rich.text import Text
from rich.tree import Tree

from .records import Manifest, RunnerError
from .redaction import shown
from .report import as_text
from .schemas import Artifact, NodeRecord
from .values import digest, leaves, short
from .work import base_name


@dataclass
class Makers:
    """Records by the (dataset, version) that they made, and the version of each dataset in the manifest."""

    of: dict[tuple[str, str | None], NodeRecord]
    current: dict[str, str | None]

    @classmethod
    def read(cls, manifest: Manifest) -> "Makers":
        """All that the manifest and its history know."""
        by_version = {
            (name, artifact.version): record
            for run in (*manifest.history().values(), manifest.records)
            for record in run.values()
            for name, artifact in record.outputs.items()
        }
        made = [each for record in manifest.records.values() for each in record.outputs.items()]
        return cls(by_version, {name: artifact.version for name, artifact in made})

    def ancestors(self, dataset: str, version: str | None) -> set[tuple[str, str | None]]:
        """Versions that a version was made from, directly or not."""
        todo, found = [(dataset, version)], set()
        while todo:
            record = self.of.get(todo.pop())
            for name, artifact in record.work.inputs.items() if record else ():
                if (name, artifact.version) not in found:
                    found.add((name, artifact.version))
                    todo.append((name, artifact.version))
        return found


def explain(manifest: Manifest, dataset: str, version: str | None = None) -> Tree:
    """Tree of what made a version of a dataset (unless given, the one in the manifest), and what made its inputs.

    Raises:
        RunnerError: if no recorded run made it.
    """
    makers = Makers.read(manifest)
    name = base_name(dataset)
    versions = sorted((made for made in makers.of if made[0] == name), key=str, reverse=True)
    if not versions:
        close = difflib.get_close_matches(name, {made for made, _ in makers.of}, n=1)
        raise RunnerError(f"no recorded run made {name!r}" + (f": did you mean {close[0]!r}?" if close else ""))
    if version is None:
        version = makers.current.get(name, versions[0][1])
    record = makers.of.get((name, version))
    if record is None:
        known = ", ".join(str(each) for _, each in versions[:5])
        raise RunnerError(f"no recorded run made the version {version} of {name}; known: {known}")
    tree = Tree(_label(name, record.outputs[name], makers))
    _add_making(tree, record)
    _add_inputs(tree.add("inputs"), record, makers, seen=set())
    return tree


def _label(name: str, artifact: Artifact, makers: Makers) -> Text:
    current = "" if makers.current.get(name) == artifact.version else ", not the current one"
    about = f"  version {artifact.version or 'none'}{current}, content {artifact.digest[:12]}"
    return as_text(name, "bold") + as_text(about, "not bold")


def _add_making(tree: Tree, record: NodeRecord) -> None:
    work = record.work
    node, after = as_text(record.node, "bold"), f" in {record.seconds:.1f} s, finished {record.finished}"
    tree.add(as_text("made by the node ") + node + as_text(after, "not bold"))
    tree.add(as_text(f"in the run {record.run_id}, because: {shown(record.why)}"))
    code = digest("".join(work.code.values()))
    tree.add(f"code {code}: {sum(not name.startswith('values of ') for name in work.code)} modules")
    tree.add(as_text("libraries " + ", ".join(f"{name} {version}" for name, version in work.libraries.items())))
    parameters = tree.add("parameters")
    for name, value in (pair for block, values in work.parameters.items() for pair in leaves(values, block)):
        parameters.add(as_text(f"{name} = {short(value)}"))
    for path, hashed in {**work.files, **work.opened}.items():
        tree.add(as_text(f"file {path}, content {hashed[:12]}"))


def _add_inputs(tree: Tree, record: NodeRecord, makers: Makers, seen: set[tuple[str, str | None]]) -> None:
    for name, artifact in record.work.inputs.items():
        key = (name, artifact.version)
        maker = makers.of.get(key)
        branch = tree.add(_label(name, artifact, makers))
        if key in seen:
            branch.add("as above")
        elif maker is None:
            branch.add(as_text(f"not made by a recorded run: {artifact.path or 'no file'}"))
        else:
            seen.add(key)
            branch.add(as_text(f"made by {maker.node} in the run {maker.run_id}, because: {shown(maker.why)}"))
            _add_inputs(branch, maker, makers, seen)
