"""Hooks on the parameters: a block that is left out has its defaults, a misspelt one stops the run."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.validation.type_extractor import TypeExtractor
from pydantic import BaseModel, RootModel

from embedline.errors import DataError

logger = logging.getLogger(__name__)

# Read by the configuration itself and by other hooks.
RUN_KEYS = {"data_root", "tracking_root", "checkpoint_seconds", "spark", "rows"}


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
            needs = f", with {', '.join(_required(model))}" if _is_block(model) and not _is_value(model) else ""
            raise DataError(f"the parameters of {source!r} lack {block!r}{needs}: add it to conf/base/parameters")
        raise DataError(f"the catalog has no {name!r}, which the run reads: add it to conf/base/catalog")


def enumerate_pipelines() -> Iterable[tuple[str, Pipeline]]:
    """All registered pipelines by name."""
    from embedline.pipeline_registry import register_pipelines

    return register_pipelines().items()


def _is_block(model: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _is_value(model: type[BaseModel]) -> bool:
    return issubclass(model, RootModel)  # a list or a number in YAML: it has no keys


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _unread(parameters: Mapping[str, Any], read: set[str], prefix: str = "") -> Iterable[str]:
    """Names of the outermost parameters that are not read, nor hold or belong to one that is."""
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        if name in read or (not prefix and (name in RUN_KEYS or name.startswith("_"))):
            continue  # a key that starts with _ is a template in YAML
        if isinstance(value, Mapping) and any(other.startswith(f"{name}.") for other in read):
            yield from _unread(value, read, prefix=f"{name}.")
        else:
            yield name
