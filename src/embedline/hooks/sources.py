"""Hooks on the sources of data: typed paths start from the working directory, and addresses may need credentials."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from embedline.paths import is_relative_source, source_candidates

ACCESS_KEYS = {"credentials", "max_bytes"}  # beside the key `source`, read by `SourceAccess`


class SourcePaths:
    """Let a typed path, ``--params tickets.source=…`` or ``rows=…``, start from the working directory.

    A path in YAML starts from the project (:func:`embedline.paths.find_source`), and so does a typed one where nothing
    lies in the working directory.
    """

    only_observes = True  # where a file is found is no part of what is made of it: its content is, and its name

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make typed paths that lie in the working directory absolute, before anything reads them."""
        given = getattr(context.config_loader, "runtime_params", None) or {}
        sources = [(block, "source") for block in given.values() if isinstance(block, dict)]
        for block, key in [(given, "rows"), *sources]:
            path = block.get(key)
            if is_relative_source(path) and Path.cwd() != Path(context.project_path) and Path(path).exists():
                block[key] = Path(path).absolute().as_posix()


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
        from embedline.download import read_access, set_access

        sources = dict(_sources(context.params))
        access = {name: read_access(name, block, lambda: _credentials(context)) for name, block in sources.items()}
        set_access(
            {path: access[name] for name, block in sources.items() for path in source_candidates(block["source"])}
        )


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
