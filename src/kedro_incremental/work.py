"""All that decides what a node makes: its code, parameters and settings, and the files that it was seen to read."""

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kedro.framework import project as kedro_project
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from .code import CodeIndex
from .files import Place, local_paths, place_of
from .reading import Reading, Uncomparable, plain
from .records import Manifest, now
from .redaction import stored
from .schemas import Artifact, Work
from .values import canonical, digest
from .watching import WATCH, Seen, signature

NOT_CONTENT = {"filepath", "path", "version", "versioned", "credentials", "metadata"}  # of a catalog entry
ARGUMENTS = ("_load_args", "_save_args", "_fs_open_args_load", "_fs_open_args_save", "_copy_mode")  # of a dataset
SECRET = re.compile(r"(?i)secret|token|passw|key|credential|auth|user")  # of the settings of a file system
# The operating system's and Python's own, unless the project lies there.
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/run", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix)
ABSENT, UNSETTLED = "absent", "changed while it was read"


def base_name(dataset: str) -> str:
    """Name without Kedro's transcoding: ``sales@pandas`` and ``sales@spark`` are one artifact."""
    return dataset.partition("@")[0]


def is_parameter(dataset: str) -> bool:
    """Whether a node's input is a parameter."""
    return dataset == "parameters" or dataset.startswith("params:")


class Works:
    """The work of every node of a pipeline.

    Args:
        pipeline: nodes to run, already filtered.
        catalog: its datasets exist (Kedro's warm-up has happened).
        manifest: what is remembered; :meth:`Manifest.recover` has been called.
        project: folder that relative paths in parameters start from.
        hook_manager: of the session, for the hooks that may change what a node reads.
        trust: False to read the content of every file, whatever its times say.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        catalog: Any,
        manifest: Manifest,
        project: Path,
        hook_manager: Any = None,
        *,
        trust: bool,
    ) -> None:
        self._catalog, self._manifest, self._project, self._trust = catalog, manifest, project, trust
        # Not imported by name: Kedro sets it after this module has been read.
        self._index = CodeIndex(kedro_project.PACKAGE_NAME, manifest.folder / "code.json")
        self._hooks, self._held_by_hooks = self._index.of_hooks(hook_manager)
        self._validators = getattr(catalog, "validators", {})
        names = sorted(name for name in pipeline.datasets() if not is_parameter(name))
        self._datasets = {name: catalog.get(name) for name in names}
        self._places = {name: place_of(dataset) for name, dataset in self._datasets.items()}
        self.known: dict[str, Artifact | None] = {}
        self._work: dict[str, Work] = {}
        self._modules: dict[str, set[str]] = {}
        self._untraceable: dict[str, str] = {}

    def save(self) -> None:
        """Keep what the next run can use again."""
        self._index.save()
        self._manifest.save_hashes()

    def is_stored(self, name: str) -> bool:
        """Whether a dataset outlives the run."""
        return not getattr(self._datasets[name], "_EPHEMERAL", False)

    def work(self, node: Node) -> Work:
        """The node's work with the inputs that are known by now."""
        if node.name not in self._work:
            self._work[node.name] = self._fixed_work(node)
        inputs = {name: self.known.get(name) for name in data_inputs(node)}
        return dataclasses.replace(
            self._work[node.name], inputs={name: found for name, found in inputs.items() if found}
        )

    def _fixed_work(self, node: Node) -> Work:
        names = [name for name in (*node.inputs, *node.outputs) if not is_parameter(name)]
        read: dict[str, Any] = {"function": lambda reading: reading.of(node.func)}
        values = {name: self._catalog.get(name).load() for name in node.inputs if is_parameter(name)}
        read |= {name: lambda reading, value=value: reading.of(value) for name, value in values.items()}
        read |= {f"catalog entry {name}": lambda reading, name=name: self._settings(name, reading) for name in names}
        reading, found = Reading(), dict[str, Any]()
        for what, of in read.items():
            try:
                found[what] = of(reading)
            except Uncomparable as error:
                self._untraceable[node.name] = f"its {what} cannot be compared: {error}"
                found[what] = None
        function = found.pop("function")
        parameters = {name.removeprefix("params:"): found[name] for name in values}
        settings = {name: found[f"catalog entry {name}"] for name in names}
        record = self._manifest.records.get(node.name)
        opened, imported = (record.work.opened, record.work.imported) if record else ({}, [])
        self._modules[node.name] = modules = {*reading.modules, *self._hooks, *self._index.named_in([*found.values()])}
        modules.update(*(self._index.of_class(type(self._datasets[name])) for name in names if self.is_stored(name)))
        code = self._index.of(modules | set(imported))
        held = dict(self._held_by_hooks)
        if function and not isinstance(function.get("!function"), str):
            held[f"values of the function of {node.name}"] = digest(canonical(function))
        tags = [sorted(node.tags), node.namespace] if self._hooks else None  # a hook may look at them
        return Work(
            wiring=plain([node._inputs, node._outputs, tags]),
            code=code.modules | held,
            libraries=code.libraries,
            parameters=stored(parameters, self._manifest.folder),
            files=self._files_in(parameters),
            datasets=stored({name: setting for name, setting in settings.items() if setting}, self._manifest.folder),
            opened={name: self._content(name) for name in opened},
            imported=imported,
        )

    def _files_in(self, parameters: dict[str, Any]) -> dict[str, str]:
        """Content of the files that parameters name."""
        named = (pair for value in parameters.values() for pair in local_paths(value, self._project))
        found = {text: self._manifest.hashes.of(path, trust=self._trust) for text, path in named}
        return {text: hashed for text, hashed in found.items() if hashed}

    def _settings(self, name: str, reading: Reading) -> dict[str, Any]:
        """What a catalog entry says of the content, without places and secrets."""
        dataset = self._datasets[name]
        arguments = {key: value for key in ARGUMENTS if (value := vars(dataset).get(key))}
        now = {}
        if arguments:  # hooks may set them
            hidden = stored(plain(arguments, strict=False), self._manifest.folder)
            now = {"arguments": digest(canonical(hidden))}
        if not self.is_stored(name):
            return now
        config = dataset._init_config()
        given = {key: value for key, value in (config | config.pop("kwargs", {})).items() if value is not None}
        settings = {key: given[key] for key in sorted(given) if key not in NOT_CONTENT}
        settings = {key: _without_secrets(value) if key == "fs_args" else value for key, value in settings.items()}
        validator = {"validator": self._validators[name]} if name in self._validators else {}
        return {**dict(reading.of({**settings, **validator})), **now}

    # What it was seen to read

    def finished_work(self, node: Node, seen: Seen) -> Work:
        """The node's work, with what it was seen to import and read while it ran.

        What was imported only then counts as it was imported, and what was not read again counts as it is now.
        """
        work = self.work(node)
        seen_modules = {name for name in seen.modules if self._index.modules.is_project(name)}
        imported = sorted(
            {part for name in {*seen_modules, *work.imported} for part in self._index.modules.found(name)}
        )
        code = self._index.of(self._modules[node.name] | set(imported), again=True)
        held = {name: value for name, value in work.code.items() if name.startswith("values of the ")}
        places = [place for place in self._places.values() if place]
        own = [place for name in (*node.inputs, *node.outputs) if (place := self._places.get(name))]
        states = self._states(seen, own)
        named = {str(path) for value in work.parameters.values() for _, path in local_paths(value, self._project)}
        for module in code.modules:
            keeps = not module.startswith("values of ") and self._index.modules.source(module).keeps
            for by_module in WATCH.read_by(module, for_nodes=keeps):
                found = self._states(by_module, places)
                states |= {name: state for name, state in found.items() if name not in states and name not in named}
        return dataclasses.replace(
            work,
            code=code.modules | held,
            libraries=code.libraries,
            opened=dict(sorted(states.items())),
            imported=imported,
        )

    def _states(self, seen: Seen, places: Iterable[Place]) -> dict[str, str]:
        """Content by file and folder that was read, but for those of the catalog, of the system and of the runner."""
        apart = [*(place.path for place in places if place.filesystem is None), str(self._manifest.folder.absolute())]
        project = str(self._project)
        states = {}
        for path in [*seen.files, *(f"{folder}/" for folder in seen.folders)]:
            is_inside = _is_under(path, project)
            if any(_is_under(path, each) for each in apart):
                continue
            if not is_inside and any(_is_under(path, each) for each in SYSTEM if not _is_under(project, each)):
                continue
            before, now = seen.files.get(path), signature(path)
            if now is None and not is_inside and _is_under(path, tempfile.gettempdir()):
                continue  # was made and removed meanwhile
            name = os.path.relpath(path, project) + path[len(path.rstrip("/")) :] if is_inside else path
            is_settled = path.endswith("/") or path in seen.written or before == now
            states[name] = self._content(name) if is_settled else UNSETTLED
        return states

    def _content(self, name: str) -> str:
        """Hash of a file, or of a folder's listing, outside of the catalog."""
        path, hashes = self._project / name, self._manifest.hashes
        hashed = (hashes.of_listing if name.endswith("/") else hashes.of)(path, trust=self._trust)
        return hashed or ABSENT

    def read_since(self, node: Node) -> list[str]:
        """Files outside of the catalog that another node of this run has changed after this one was planned."""
        opened = self.work(node).opened
        if not all(self.is_stored(name) for name in node.inputs if not is_parameter(name)):
            return []  # what it needs was not made; the next run sees the change
        return [f"{name}, which it reads, changed" for name in opened if self._content(name) != opened[name]]

    def key(self, node: Node, work: Work | None = None) -> str:
        """Hash of the node's work, as planned or as given: equal for works that make the same."""
        work = work or self.work(node)
        inputs = {name: artifact.digest for name, artifact in work.inputs.items()}
        unique = [str(self._manifest.folder), now()] if node.name in self._untraceable else []
        return digest(canonical({**vars(work), "inputs": inputs, "unique": unique}))


def data_inputs(node: Node) -> list[str]:
    """Names of the node's inputs that are no parameters, without transcoding."""
    return [base_name(name) for name in node.inputs if not is_parameter(name)]


def _is_under(path: str, folder: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{str(folder).rstrip('/')}/")


def _without_secrets(value: Any) -> Any:
    """Settings of a file system without those whose names may stand for secrets."""
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items() if not SECRET.search(str(key))}
    return value
