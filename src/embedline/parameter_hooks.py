"""Hooks on the parameters: a block that is left out has its defaults, a misspelt one stops the run.

The credentials of a source are looked up.
"""

import difflib
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeGuard

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.validation.type_extractor import TypeExtractor
from pydantic import BaseModel

from embedline.errors import DataError

logger = logging.getLogger(__name__)

# Read by the configuration itself and by other hooks.
RUN_KEYS = {"data_root", "tracking_root", "checkpoint_seconds", "spark", "rows"}
ACCESS_KEYS = {"credentials", "max_bytes"}  # beside the key `source`, read by `SourceAccess`


class ParameterDefaults:
    """Fill in the blocks that a source leaves out, where every key of such a block has a default.

    So a source of one's own says what matters of it, and nothing of the learning-rate finder.
    """

    @hook_impl(tryfirst=True)
    def after_catalog_created(self, catalog: CatalogProtocol, parameters: dict[str, Any]) -> None:
        """Add ``params:<source>.<block>`` for each block that a pipeline reads and the source's parameters lack."""
        given = parameters["parameters"]
        wanted = TypeExtractor(dict(enumerate_pipelines())).extract_types_from_pipelines()
        for key, model in wanted.items():
            source, _, block = key.partition(".")
            if not block or not isinstance(given.get(source), Mapping) or block.split(".")[0] in given[source]:
                continue
            if _is_block(model) and not _required(model):
                catalog[f"params:{key}"] = model()


class ParameterCheck:
    """Refuse a parameter that no registered pipeline reads, and a run that lacks one.

    A misspelt block would otherwise be ignored in silence.

    Keys inside a block are checked by the block's own pydantic model.
    """

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Compare every parameter with the ``params:`` inputs of all pipelines."""
        read = {
            name.removeprefix("params:")
            for _, pipeline in enumerate_pipelines()
            for name in pipeline.inputs()
            if name.startswith("params:")
        }
        unread = sorted(_unread(parameters["parameters"], read))
        if unread:
            hints = difflib.get_close_matches(unread[0], read, n=1)
            hint = f": did you mean {hints[0]!r}?" if hints else f"; these are read: {', '.join(sorted(read))}"
            raise DataError(f"no pipeline reads the parameter {unread[0]!r}{hint}")

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Name the first block of parameters, or the first dataset, that the run needs and nobody has given."""
        missing = sorted(name for name in pipeline.inputs() if name not in catalog)
        if not missing:
            return
        name = missing[0].removeprefix("params:")
        source, _, block = name.partition(".")
        if name != missing[0]:
            model = TypeExtractor({"run": pipeline}).extract_types_from_pipelines().get(name)
            needs = f", with {', '.join(_required(model))}" if _is_block(model) else ""
            raise DataError(f"the parameters of {source!r} lack {block!r}{needs}: add it to conf/base/parameters")
        raise DataError(f"the catalog has no {name!r}, which the run reads: add it to conf/base/catalog")


class SourceAccess:
    """Let a source be fetched with credentials: ``credentials: name`` beside ``source:``, and ``max_bytes:``.

    As in the catalog, the name is that of an entry of ``credentials.yml``. Its content is no parameter: nodes, trackers
    and the manifest do not see it.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Look up the entries that the parameters name.

        Raises:
            DataError: an entry is not there, or a value is of the wrong kind; names the key.
        """
        from embedline.sources.download import set_access

        set_access({block["source"]: _access(name, block, context) for name, block in _sources(context.params)})


def _sources(parameters: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Blocks with a source and something of `ACCESS_KEYS`, by name."""
    for key, block in parameters.items():
        if isinstance(block, Mapping):
            name = f"{prefix}{key}"
            if isinstance(block.get("source"), str) and any(block.get(other) is not None for other in ACCESS_KEYS):
                yield name, block
            yield from _sources(block, prefix=f"{name}.")


def _access(name: str, block: Mapping[str, Any], context: KedroContext) -> Any:
    from embedline.sources.download import Access
    from embedline.sources.members import MAX_BYTES

    entry, max_bytes = block.get("credentials"), block.get("max_bytes")
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
        raise DataError(f"{name}.max_bytes must be a number of bytes, 1 or more, got {max_bytes!r}")
    if entry is None:
        return Access(max_bytes=max_bytes or MAX_BYTES)
    if not isinstance(entry, str):
        raise DataError(f"{name}.credentials must name an entry of conf/local/credentials.yml, not hold its content")
    known = _credentials(context)
    if not isinstance(known.get(entry), Mapping):
        there = f"it has {', '.join(map(str, known))}" if known else "there is none yet"
        raise DataError(f"{name}.credentials names {entry!r}, which is no entry of conf/local/credentials.yml: {there}")
    return Access(dict(known[entry]), max_bytes or MAX_BYTES)


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


def enumerate_pipelines() -> Iterable[tuple[str, Pipeline]]:
    """All registered pipelines by name."""
    from embedline.pipeline_registry import register_pipelines

    return register_pipelines().items()


def _is_block(model: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _unread(parameters: Mapping[str, Any], read: set[str], prefix: str = "") -> Iterable[str]:
    """Names of the outermost parameters that are not read, nor hold or belong to one that is."""
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        if name in read or (not prefix and (name in RUN_KEYS or name.startswith("_"))):
            continue  # a key that starts with _ is a template in YAML
        if key in ACCESS_KEYS and f"{prefix}source" in read:
            continue
        if isinstance(value, Mapping) and any(other.startswith(f"{name}.") for other in read):
            yield from _unread(value, read, prefix=f"{name}.")
        else:
            yield name
