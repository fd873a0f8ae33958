"""Values of a trial in the settings of a learner."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from embedline.errors import DataError
from embedline.pipelines.tuning.options import Dimension

Settings = dict[str, BaseModel]  # blocks of a source by their names
OF_SEARCH = ("seeds", "weights", "lightgbm.seed")  # below a block: every trial has those of the search


def put_in(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with some values in place of others; ValidationError if a block refuses its value.

    ``values`` are by dotted path, such as ``training.lr`` or, in a list, ``classifier_training.stages.0.lr``. A mapping
    for a whole block is laid over the block.
    """
    changed = {name: settings[name].model_dump(exclude_unset=True) for name in {path.split(".")[0] for path in values}}
    for path, value in values.items():
        block, *keys = path.split(".")
        changed[block] = _replaced(changed[block], keys, value) if keys else {**changed[block], **value}
    return settings | {name: type(settings[name]).model_validate(given) for name, given in changed.items()}


def _replaced(node: Any, keys: Sequence[str], value: Any) -> Any:
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
        return [_replaced(item, rest, value) if place == int(key) else item for place, item in enumerate(node)]
    inner = node if isinstance(node, Mapping) else {}
    return {**inner, key: _replaced(inner.get(key), rest, value)}


def current_value(settings: Settings, path: str) -> Any:
    """The value at a dotted path, defaults included; None where there is none."""
    block, *keys = path.split(".")
    node: Any = settings[block].model_dump()
    for key in keys:
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def untuned_parameters(settings: Settings, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """The settings as they are, as parameters of an Optuna trial; none if one of them lies outside of the space."""
    found = {name: one.parameter(current_value(settings, name)) for name, one in dimensions.items()}
    return {} if None in found.values() else found


def check_space(settings: Settings, dimensions: Mapping[str, Dimension], key: str) -> None:
    """Build the settings for both ends, or each choice, of every dimension of the space under the YAML ``key``.

    A setting that does not exist or is not to be tuned, and a value that its block refuses, are a DataError.
    """
    for name, dimension in dimensions.items():
        block, *keys = name.split(".")
        if block not in settings:
            near = difflib.get_close_matches(block, settings, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{key} names {name!r}: {hint}The blocks to tune are {', '.join(settings)}")
        if ".".join(keys) in OF_SEARCH:
            raise DataError(
                f"{key} names {name!r}: the seeds of all trials are those of {key.removesuffix('space')}seeds"
            )
        for value in dimension.edges():
            if not keys and not isinstance(value, Mapping):
                raise DataError(f"{key} names {name!r}, a whole block, whose choices are mappings; got {value!r}")
            try:
                put_in(settings, {name: value})
            except ValidationError as error:
                raise DataError(f"{key} names {name!r}: {_refusal(error, settings[block], keys, value)}") from error


def _refusal(error: ValidationError, block: BaseModel, keys: Sequence[str], value: Any) -> str:
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        last = str(first["loc"][-1])
        near = difflib.get_close_matches(last, type(block).model_fields, n=1) if len(keys) == 1 else []
        return f"there is no setting {last!r}" + (f", did you mean {near[0]!r}?" if near else "")
    return f"it cannot be {json.dumps(value, default=str)}: {first['msg'].removeprefix('Value error, ')}"
