"""Hooks on the sources of data: where a relative path starts, and the credentials of an address."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from embedline.errors import DataError
from embedline.paths import project_root

ACCESS_KEYS = {"credentials", "max_bytes"}  # beside the key `source`, read by `SourceAccess`
GENERATED = "generated"  # a source that is no address


class SourcePaths:
    """Find a relative ``source`` whatever the working directory is.

    A path in YAML starts from the project. One that is typed, ``--params tickets.source=… `` or ``rows=…``, starts from
    the working directory, as everywhere at a command line, and from the project where nothing lies there.
    """

    only_observes = True  # where a file is found is no part of what is made of it: its content is, and its name

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make typed paths that lie in the working directory absolute, before anything reads them."""
        given = getattr(context.config_loader, "runtime_params", None) or {}
        sources = [(block, "source") for block in given.values() if isinstance(block, dict)]
        for block, key in [(given, "rows"), *sources]:
            path = block.get(key)
            if _is_relative(path) and Path.cwd() != Path(context.project_path) and Path(path).exists():
                block[key] = Path(path).absolute().as_posix()

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> dict[str, Any]:
        """Hand the node that fetches a source the path from the project, unless the working directory is meant."""
        found = {}
        for name in (name for name in inputs if "acquire" in node.tags and name.endswith(".source")):
            path = inputs[name]
            if not _is_relative(path):
                continue
            places = _places(path)
            there = next((place for place in places if Path(place).exists()), None)
            if there is None:
                looked = " nor at ".join(places)
                raise DataError(
                    f"{name.removeprefix('params:')}: there is no file or folder {path!r}, neither at {looked}"
                )
            found[name] = there
        return found


def _places(source: str) -> list[str]:
    """Where a source may lie: below the project and the working directory, if it is a relative path."""
    if not _is_relative(source):
        return [source]
    places = (place / os.path.expanduser(source) for place in (project_root(), Path.cwd()))
    return list(dict.fromkeys(place.as_posix() for place in places))


def _is_relative(path: Any) -> TypeGuard[str]:
    """Whether a parameter is a relative path: neither an address nor an absolute path."""
    if not isinstance(path, str) or not path.strip() or path == GENERATED or "://" in path or "::" in path:
        return False
    return not os.path.isabs(os.path.expanduser(path))


class SourceAccess:
    """Let a source be fetched with credentials: ``credentials: name`` beside ``source:``, and ``max_bytes:``.

    As in the catalog, the name is that of an entry of ``credentials.yml``. Its content is no parameter: nodes, trackers
    and the manifest do not see it.
    """

    only_observes = True  # how a source is fetched is no part of what is made of it

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Look up the entries that the parameters name.

        Raises:
            DataError: an entry is not there, or a value is of the wrong kind; names the key.
        """
        from embedline.sources.download import read_access, set_access

        sources = dict(_sources(context.params))
        access = {name: read_access(name, block, lambda: _credentials(context)) for name, block in sources.items()}
        set_access({place: access[name] for name, block in sources.items() for place in _places(block["source"])})


def _sources(parameters: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Blocks with a source and something of `ACCESS_KEYS`, by name."""
    for key, block in parameters.items():
        if isinstance(block, Mapping):
            name = f"{prefix}{key}"
            if isinstance(block.get("source"), str) and any(block.get(other) is not None for other in ACCESS_KEYS):
                yield name, block
            yield from _sources(block, prefix=f"{name}.")


def _credentials(context: KedroContext) -> dict[str, Any]:
    """Entries of the environment that runs and, since that is not ``local`` by default, of ``conf/local``."""
    loader: Any = context.config_loader
    known: dict[str, Any] = {}
    with suppress(MissingConfigException):  # there is no folder `local`
        patterns = loader.config_patterns["credentials"]
        known |= loader.load_and_merge_dir_config(f"{loader.conf_source}/local", patterns, "credentials", set(), True)
    with suppress(MissingConfigException):  # the environment has no such file
        known |= loader["credentials"]
    return known
