"""Whether a node has to run: its inputs now, compared with those of its last success, and the state of its outputs."""

import dataclasses
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from kedro.framework import project as kedro_project
from kedro.io import AbstractDataset
from kedro.io.core import VersionNotFoundError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from .audit import AUDIT, Accesses, signature
from .canonical_json import NotComparable, ValueReader, as_json, canonical, digest
from .code_fingerprint import CodeFingerprints
from .manifest import Artifact, Manifest, NodeInputs, NodeRecord, RunnerError, diff, now
from .redaction import fingerprinted, redacted
from .storage import Storage, local_paths, storage_of

logger = logging.getLogger(__name__)

NOT_CONTENT = {"filepath", "path", "version", "versioned", "credentials", "metadata"}  # of a catalog entry
ARGUMENTS = ("_load_args", "_save_args", "_fs_open_args_load", "_fs_open_args_save", "_copy_mode")  # of a dataset
SECRET = re.compile(r"(?i)secret|token|passw|key|credential|auth|user")  # in the settings of a file system
# Files of the operating system and of Python do not count, unless the project lies there.
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/run", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix)


def base_name(dataset: str) -> str:
    """Name without Kedro's transcoding: ``sales@pandas`` and ``sales@spark`` are one artifact."""
    return dataset.partition("@")[0]


def is_parameter(dataset: str) -> bool:
    """Whether an input of a node is a parameter."""
    return dataset == "parameters" or dataset.startswith("params:")


def loaded_datasets(node: Node) -> list[str]:
    """Names of the inputs of a node that are no parameters, without transcoding."""
    return [base_name(name) for name in node.inputs if not is_parameter(name)]


class ChangeDetector:
    """Inputs and outputs of every node of a pipeline.

    Args:
        pipeline: nodes to run, already filtered.
        catalog: its datasets exist (Kedro's warm-up has happened).
        manifest: the records.
        project: folder that relative paths in parameters start from.
        hook_manager: of the session, for the hooks that may change what a node reads.
        trust: False to read the content of every file, whatever its times are.

    Attributes:
        artifacts: by dataset, its content in this run; None for one that is missing, or no file.
    """

    def __init__(
        self, pipeline: Pipeline, catalog: Any, manifest: Manifest, project: Path, hook_manager: Any, *, trust: bool
    ) -> None:
        self._catalog, self._manifest, self._project, self._trust = catalog, manifest, project, trust
        # Not imported by name: Kedro sets it after this module has been read.
        self._code = CodeFingerprints(kedro_project.PACKAGE_NAME, manifest.cache["sources"])
        self._hook_modules, self._hook_values = self._code.of_hooks(hook_manager)
        self._datasets = {name: catalog.get(name) for name in sorted(pipeline.datasets()) if not is_parameter(name)}
        self._storages = {name: storage_of(dataset) for name, dataset in self._datasets.items()}
        self._outputs = pipeline.outputs()
        versions = [(base_name(name), getattr(each, "_version", None)) for name, each in self._datasets.items()]
        self._pinned = {name: version.load for name, version in versions if version and version.load}
        self._inputs: dict[str, NodeInputs] = {}
        self._modules: dict[str, set[str]] = {}
        self._named: dict[str, set[str]] = {}  # files that parameters name, by node
        self._not_comparable: dict[str, str] = {}
        self.artifacts: dict[str, Artifact | None] = {}
        makers = {name: record for record in manifest.records.values() for name in record.outputs}
        for name in sorted(pipeline.inputs()):
            if not is_parameter(name) and base_name(name) not in self.artifacts:
                self.artifacts[base_name(name)] = self._free_input(name, makers.get(base_name(name)))

    def is_stored(self, name: str) -> bool:
        """Whether a dataset outlives the run."""
        return not getattr(self._datasets[name], "_EPHEMERAL", False)

    # Datasets

    def _free_input(self, name: str, maker: NodeRecord | None) -> Artifact | None:
        """What the pipeline loads and does not make; a version that another pipeline made is pinned to its record."""
        base, storage = base_name(name), self._storages[name]
        if storage is None:
            return None
        recorded = maker.outputs[base].version if maker else None
        if storage.versioned and recorded and base not in self._pinned:
            newest = next(iter(storage.versions()), None)
            if newest and newest > recorded:
                logger.warning("%s: reading the recorded version %s, not the newer %s", base, recorded, newest)
            if Path(storage.version_path(recorded)).exists() or storage.filesystem is not None:
                self._pin(base, recorded)
        try:
            version = self._datasets[name].resolve_load_version() if storage.versioned else None
        except VersionNotFoundError:
            return None  # the load will fail, with Kedro's own message
        return self._artifact(storage, version)

    def _artifact(self, storage: Storage, version: str | None) -> Artifact | None:
        hashed = storage.hash(version, self._manifest.hashes, trust=self._trust)
        path = storage.version_path(version)
        return Artifact(version, hashed, path if storage.filesystem is None else redacted(path)) if hashed else None

    def _pin(self, base: str, version: str | None) -> None:
        """Make every reader of an artifact in this run read ``version``."""
        for name, dataset in self._datasets.items():
            if base_name(name) == base and getattr(dataset, "_version", None):
                dataset._version = dataset._version._replace(load=version)

    def _stored_outputs(self, node: Node) -> Iterator[tuple[str, str, Storage | None]]:
        """Stored outputs of a node: full name, name without transcoding, storage."""
        return ((name, base_name(name), self._storages[name]) for name in node.outputs if self.is_stored(name))

    def prepare_outputs(self, node: Node) -> list[str]:
        """Make readers of the node's outputs read what it is about to write; its folders on this machine."""
        folders = []
        for name in node.outputs:
            version, storage = getattr(self._datasets[name], "_version", None), self._storages[name]
            if version and base_name(name) not in self._pinned:
                self._pin(base_name(name), version.save)
            if version and storage and storage.versioned and storage.filesystem is None:
                folders.append(f"{storage.path}/{version.save}")
        return folders

    def has_pinned_outputs(self, node: Node) -> bool:
        """Whether ``--load-versions`` gives the node's outputs. Raises RunnerError if it gives only some of them."""
        stored = [base for _, base, _ in self._stored_outputs(node)]
        pinned = [name for name in stored if name in self._pinned]
        if pinned and len(pinned) < len(stored):
            missing = next(name for name in stored if name not in self._pinned)
            raise RunnerError(
                f"--load-versions names {pinned[0]} but not {missing}, which {node.name} makes with it: "
                "give both versions or none"
            )
        return bool(pinned)

    def skip(self, node: Node) -> None:
        """Take the recorded (or pinned) outputs of a node for this run."""
        record = self._manifest.records.get(node.name)
        for name in node.outputs:
            base, storage = base_name(name), self._storages[name]
            if base in self._pinned and storage:
                self.artifacts[base] = self._artifact(storage, self._pinned[base])
            elif record and base in record.outputs:
                self._pin(base, record.outputs[base].version)
                self.artifacts[base] = record.outputs[base]
            elif record:
                self.artifacts[base] = Artifact(None, f"made by {record.key}")

    def finished_outputs(self, node: Node, key: str) -> dict[str, Artifact]:
        """Stored outputs that the node has just made from the inputs whose hash is ``key``."""
        for name in node.outputs:
            storage = self._storages[name]
            version = self._datasets[name]._version.save if storage and storage.versioned else None
            artifact = self._artifact(storage, version) if storage else Artifact(None, f"made by {key}")
            self.artifacts[base_name(name)] = artifact
        outputs = {base: self.artifacts[base] for _, base, _ in self._stored_outputs(node)}
        return {base: artifact for base, artifact in outputs.items() if artifact}

    # Reasons to run

    def reasons(self, node: Node, uncertain: Set[str] = frozenset()) -> list[str]:
        """Why the node must run, the most important first; empty if its record still holds.

        ``uncertain`` datasets, which others are about to make, and may make as they were, give no reason.
        """
        record = self._manifest.records.get(node.name)
        if always := self._reasons_to_run_always(node, uncertain):
            return always
        if record is None:
            return ["first run"]
        return [*diff(record.inputs, self.inputs(node), uncertain), *self._output_reasons(node, record)]

    def touch(self, node: Node) -> tuple[NodeInputs, list[str]]:
        """Inputs of the node now, and how they differ from the recorded ones; RunnerError if it has to run all the
        same.
        """
        record = self._manifest.records.get(node.name)
        always = self._reasons_to_run_always(node, frozenset()) if record else ["it never ran"]
        if record is None or (always := [*always, *self._output_reasons(node, record)]):
            raise RunnerError(f"--touch: {node.name} has to run: {always[0]}")
        inputs = self.inputs(node)
        return inputs, diff(record.inputs, inputs) or ["nothing changed"]

    def _reasons_to_run_always(self, node: Node, uncertain: Set[str]) -> list[str]:
        if not node.outputs:
            return ["it has no outputs"]
        unstored = [name for name in node.outputs if not self.is_stored(name) and name in self._outputs]
        if unstored:
            return [f"its output {unstored[0]} is not stored"]
        self.inputs(node)
        if node.name in self._not_comparable:
            return [self._not_comparable[node.name]]
        unknown = [name for name in loaded_datasets(node) if name not in uncertain and not self.artifacts.get(name)]
        return [f"input {unknown[0]} is missing or no file: a change cannot be detected"] if unknown else []

    def may_run(self, node: Node) -> bool:
        """Whether a node that was to be skipped can run: its outputs are not given, and its inputs are stored."""
        is_there = all(self.is_stored(name) for name in node.inputs if not is_parameter(name))
        return is_there and not self.has_pinned_outputs(node)

    def _output_reasons(self, node: Node, record: NodeRecord) -> Iterator[str]:
        for name, base, storage in self._stored_outputs(node):
            written, dataset = record.outputs.get(base), self._datasets[name]
            if written is None:
                yield f"output {base} is not recorded"
            elif storage is None:
                if type(dataset)._exists is not AbstractDataset._exists and not dataset.exists():
                    yield f"output {base} is missing"
            elif storage.versioned != (written.version is not None):
                yield f"output {base} is {'now' if storage.versioned else 'no longer'} versioned"
            elif (hashed := storage.hash(written.version, self._manifest.hashes, trust=self._trust)) is None:
                yield f"output {base} is missing"
            elif hashed != written.digest:
                yield f"output {base} is not as it was written"
            elif storage.versioned and (newest := storage.versions()[0]) > str(written.version):
                yield f"output {base} has a newer version that no recorded run made: {newest}"

    # Inputs

    def inputs(self, node: Node) -> NodeInputs:
        """Inputs of the node, with the artifacts that are known by now, and files as they are."""
        if node.name not in self._inputs:
            self._inputs[node.name] = self._fixed_inputs(node)
        fixed = self._inputs[node.name]
        artifacts = {name: found for name in loaded_datasets(node) if (found := self.artifacts.get(name))}
        files = {name: self._file_hash(name) for name in fixed.files}
        return dataclasses.replace(fixed, artifacts=artifacts, files=files)

    def key(self, node: Node, inputs: NodeInputs) -> str:
        """Hash of the node's inputs: equal inputs give equal results."""
        artifacts = {name: artifact.digest for name, artifact in inputs.artifacts.items()}
        unique = [str(self._manifest.folder), now()] if node.name in self._not_comparable else []
        return digest(canonical({**vars(inputs), "artifacts": artifacts, "unique": unique}))

    def _fixed_inputs(self, node: Node) -> NodeInputs:
        """Inputs of the node without artifacts."""
        names = [name for name in (*node.inputs, *node.outputs) if not is_parameter(name)]
        values = {name: self._catalog.get(name).load() for name in node.inputs if is_parameter(name)}
        reader = ValueReader()

        def read(what: str, value: Any) -> Any:
            try:
                return reader.read(value)
            except NotComparable as error:
                self._not_comparable[node.name] = f"its {what} cannot be compared: {error}"
                return None

        function = read("function", node.func)
        parameters = {name.removeprefix("params:"): read(name, value) for name, value in values.items()}
        settings = {name: read(f"catalog entry {name}", self._settings(name)) for name in names}
        record = self._manifest.records.get(node.name)
        files, imported = (record.inputs.files, record.inputs.imported) if record else ({}, [])
        classes = {type(self._datasets[name]) for name in names if self.is_stored(name)}
        modules = reader.modules.union(self._hook_modules, *map(self._code.modules_of_class, classes))
        self._modules[node.name] = modules
        code, libraries = self._code.code(modules | set(imported))
        held = dict(self._hook_values)
        if function and not isinstance(function.get("!function"), str):
            held[f"values of the function of {node.name}"] = digest(canonical(function))
        self._named[node.name] = {
            self._shown(path) for value in parameters.values() for path in local_paths(value, self._project)
        }
        tags = [sorted(node.tags), node.namespace] if self._hook_modules else None  # a hook may look at them
        folder = self._manifest.folder
        return NodeInputs(
            wiring=as_json([node._inputs, node._outputs, tags]),
            code=code | held,
            libraries=libraries,
            parameters=fingerprinted(parameters, folder),
            files=dict.fromkeys([*self._named[node.name], *files], ""),
            catalog=fingerprinted({name: setting for name, setting in settings.items() if setting}, folder),
            imported=imported,
        )

    def _settings(self, name: str) -> dict[str, Any]:
        """What a catalog entry says of the content, without paths and secrets."""
        dataset = self._datasets[name]
        arguments = {key: value for key in ARGUMENTS if (value := vars(dataset).get(key))}
        settings: dict[str, Any] = {}
        if self.is_stored(name):
            config = dataset._init_config()
            given = {key: value for key, value in (config | config.pop("kwargs", {})).items() if value is not None}
            settings = {key: given[key] for key in sorted(given) if key not in NOT_CONTENT}
            if "fs_args" in settings:
                settings["fs_args"] = _without_secrets(settings["fs_args"])
            validators = getattr(self._catalog, "validators", {})
            settings |= {"validator": validators[name]} if name in validators else {}
        if arguments:  # hooks may set them
            hidden = fingerprinted(as_json(arguments, strict=False), self._manifest.folder)
            settings["arguments"] = digest(canonical(hidden))
        return settings

    def finished_inputs(self, node: Node, planned: NodeInputs, accesses: Accesses) -> NodeInputs:
        """Inputs of the node, with what it has imported and opened since they were ``planned``.

        A module that was imported only now counts as imported; a file that was not read again counts as it is now.
        """
        seen = {name for name in accesses.modules if self._code.is_project(name)}
        imported = sorted({part for name in {*seen, *planned.imported} for part in self._code.found(name)})
        code, libraries = self._code.code(self._modules[node.name] | set(imported), after_run=True)
        held = {name: value for name, value in planned.code.items() if name.startswith("values of the ")}
        storages = [storage for storage in self._storages.values() if storage]
        own = [storage for name in (*node.inputs, *node.outputs) if (storage := self._storages.get(name))]
        files = {name: planned.files[name] for name in self._named[node.name]}
        for module in AUDIT.by_module.keys() & code.keys():  # which may keep what it has read, for this node too
            found = self._opened(AUDIT.by_module[module], storages)
            files |= {name: hashed for name, hashed in found.items() if name not in files}
        files |= self._opened(accesses, own)
        files = dict(sorted(files.items()))
        return dataclasses.replace(planned, code=code | held, libraries=libraries, files=files, imported=imported)

    def _opened(self, accesses: Accesses, storages: Iterable[Storage]) -> dict[str, str]:
        """Hash by file and folder that was read, except those of the catalog, of the system and of the runner."""
        apart = [*(storage.path for storage in storages if storage.filesystem is None)]
        apart.append(str(self._manifest.folder.absolute()))
        project, found = str(self._project), {}
        for path in [*accesses.files, *(f"{folder}/" for folder in accesses.folders)]:
            is_inside = _is_under(path, project)
            if any(_is_under(path, each) for each in apart):
                continue
            if not is_inside and any(_is_under(path, each) for each in SYSTEM if not _is_under(project, each)):
                continue
            before, after = accesses.files.get(path), signature(path)
            if after is None and not is_inside and _is_under(path, tempfile.gettempdir()):
                continue  # was made and removed meanwhile
            is_settled = path.endswith("/") or path in accesses.written or before == after
            found[self._shown(path)] = self._file_hash(path) if is_settled else "changed while it was read"
        return found

    def _shown(self, path: str | Path) -> str:
        """Name of a file or folder in records: relative inside of the project; a folder that was listed ends in "/"."""
        path, project = str(path), str(self._project)
        is_listed = "/" if path.endswith("/") else ""
        return os.path.relpath(path, project) + is_listed if _is_under(path, project) else path

    def _file_hash(self, name: str) -> str:
        """Hash of a file, of a folder with its content, or of the listing of one whose name ends in "/"."""
        hashes, path = self._manifest.hashes, self._project / name
        if name.endswith("/"):
            return hashes.hash_folder(path, is_listing=True, trust=self._trust) or "absent"
        return hashes.hash(path, trust=self._trust) or "absent"


def _is_under(path: str, folder: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _without_secrets(value: Any) -> Any:
    """Settings of a file system without those whose names may stand for secrets."""
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items() if not SECRET.search(str(key))}
    return value
