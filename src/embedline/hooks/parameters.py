"""Hooks on the parameters: defaults of a block that is left out, misspelt names, and how sources are reached."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeGuard, get_args

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.validation.type_extractor import TypeExtractor
from pydantic import BaseModel, RootModel, ValidationError

from embedline.errors import DataError, refused_setting
from embedline.paths import is_relative_source, source_candidates

ACCESS_KEYS = {"credentials", "max_bytes"}  # beside the key `source`, read by `SourceAccess`
# Read by other hooks, and by the project's own catalog in every environment.
RUN_KEYS = {"data_root", "tracking_root", "checkpoint_seconds", "spark", "rows"}
# Blocks of parameters and datasets of a source: the former name, and the name of today.
RENAMED = {"folding": "fold_in", "service_figures": "service_metrics"}


class ParameterDefaults:
    """Fill in the blocks that a source leaves out, where every key of such a block has a default.

    So a source of one's own says what matters of it, and nothing of the learning-rate finder.
    """

    @hook_impl(tryfirst=True)
    def after_catalog_created(self, catalog: CatalogProtocol, parameters: dict[str, Any]) -> None:
        """Add ``params:<source>.<block>`` for each block that a pipeline reads and the source's parameters lack."""
        given = parameters["parameters"]
        wanted = TypeExtractor(dict(enumerate_pipelines())).extract_types_from_pipelines()
        for key, type_ in wanted.items():
            source, _, block = key.partition(".")
            model = _without_none(type_)
            if not block or not isinstance(given.get(source), Mapping) or block.split(".")[0] in given[source]:
                continue
            if _is_block(model) and not _required(model):
                catalog[f"params:{key}"] = model()


class ParameterCheck:
    """Refuse a parameter that neither a registered pipeline nor the configuration reads, and a run that lacks one.

    A misspelt block would otherwise be ignored in silence. Keys inside a block are checked by its own pydantic model.
    """

    only_observes = True  # what a node makes does not depend on it

    def __init__(self) -> None:
        self._loader: Any = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the loader, which knows what ``${runtime_params:…}`` in the configuration reads.

        Raises:
            DataError: naming the first key that a block's model refuses; Kedro, which checks the blocks later, logs
                and raises pydantic's text of several lines.
        """
        self._loader = context.config_loader
        with suppress(MissingConfigException):
            _check_blocks(context.config_loader["parameters"])

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Compare every parameter with the ``params:`` inputs of all pipelines."""
        read = {
            name.removeprefix("params:")
            for _, pipeline in enumerate_pipelines()
            for name in pipeline.inputs()
            if name.startswith("params:")
        }
        asked: set[str] = getattr(self._loader, "asked", set())
        unread = sorted(_unread(parameters["parameters"], read | asked))
        require_new_names(unread)
        if unread:
            name, known = unread[0], read | asked | RUN_KEYS
            if blocks := sorted(other for other in known if other.startswith(f"{name}.")):
                raise DataError(f"the parameter {name!r} holds blocks, such as {blocks[0]}, and no single value")
            raise DataError(f"no pipeline reads the parameter {name!r}{_hint(name, known)}")

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Name the first block of parameters, or the first dataset, that the run needs and nobody has given."""
        for old, new in RENAMED.items():
            for name in sorted(name for name in pipeline.all_outputs() if name.endswith(f".{new}")):
                former = name.removesuffix(new) + old
                if name not in catalog and former in catalog:
                    raise DataError(f"the dataset {former!r} in the catalog is named {name!r} now: rename it")
        missing = sorted(name for name in pipeline.inputs() if name not in catalog)
        if not missing:
            return
        name = missing[0].removeprefix("params:")
        source, _, block = name.partition(".")
        if name != missing[0]:
            model = TypeExtractor({"run": pipeline}).extract_types_from_pipelines().get(name)
            needs = ""
            if _is_block(model) and not issubclass(model, RootModel):  # that is a list or a number in YAML: no keys
                needs = f", with {', '.join(_required(model))}"
            raise DataError(f"the parameters of {source!r} lack {block!r}{needs}: add it to conf/base/parameters")
        near = difflib.get_close_matches(name, catalog.keys(), n=1)
        hint = f"did you mean {near[0]!r}? It is to be named {name!r} there" if near else "add it to conf/base/catalog"
        raise DataError(f"the catalog has no {name!r}, which the run reads: {hint}")


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
        """Look up the entries that the parameters name; a DataError names the key of one that is not there or wrong."""
        from embedline.download import read_access, set_access

        sources = dict(_sources(context.params))
        access = {name: read_access(name, block, lambda: _credentials(context)) for name, block in sources.items()}
        set_access(
            {path: access[name] for name, block in sources.items() for path in source_candidates(block["source"])}
        )


def require_new_names(names: Iterable[str]) -> None:
    """Raise a DataError for a parameter with a former name, such as ``movielens.folding``; it says the new name."""
    for name in names:
        above, _, own = name.rpartition(".")
        if own in RENAMED:
            raise DataError(f"the parameter {name!r} is named {f'{above}.{RENAMED[own]}'!r} now: rename it")


def _check_blocks(parameters: Mapping[str, Any]) -> None:
    """Validate the blocks that any registered pipeline reads by their models."""
    for key, type_ in TypeExtractor(dict(pipelines)).extract_types_from_pipelines().items():
        model, value = _without_none(type_), parameters
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None  # type: ignore[assignment]
        if not _is_block(model) or value is None:
            continue
        try:
            model.model_validate(value)
        except ValidationError as error:
            raise DataError(refused_setting(key, model, error)) from error


def _hint(name: str, known: Collection[str]) -> str:
    """The known name most like a misspelt one, on its level: a source for a source, a block of it for a block."""
    above, _, own = name.rpartition(".")
    level = name.count(".") + 1
    prefixes = {tuple(other.split(".")[:level]) for other in known}
    siblings = {prefix[-1]: ".".join(prefix) for prefix in sorted(prefixes) if ".".join(prefix[:-1]) == above}
    near = difflib.get_close_matches(own, siblings, n=1)
    if near:
        return f": did you mean {siblings[near[0]]!r}?"
    return f"; these are read: {', '.join(sorted(other for other in known if not above or other.startswith(above)))}"


def enumerate_pipelines() -> Iterable[tuple[str, Pipeline]]:
    """All registered pipelines by name."""
    from embedline.pipeline_registry import register_pipelines

    return register_pipelines().items()


def _without_none(model: Any) -> Any:
    """``Options`` for ``Options | None``: a block that may be null in YAML."""
    kinds = [kind for kind in get_args(model) if kind is not NoneType]
    return kinds[0] if isinstance(model, UnionType) and len(kinds) == 1 else model


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
