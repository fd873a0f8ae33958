"""Values as JSON that compares: parameters, settings of datasets, and the difference between two of them."""

import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from .redaction import shown

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits tell the few thousand definitions of a project apart
COMPARABLE = (str, int, float, complex, bytes, range, datetime.timedelta, decimal.Decimal)  # what ``repr`` tells all of


def plain(value: Any, *, strict: bool = False) -> Any:
    """``value`` as JSON types: pydantic models and dataclasses become mappings, tuples and sets lists, dates and
    paths texts.

    Raises:
        TypeError: if ``strict`` and there is a value that JSON does not have; otherwise its ``repr`` stands for it,
            which for most objects differs in every process: they count as changed.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    elif getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if isinstance(value, datetime.date | datetime.time | PurePath):
        return str(value) if isinstance(value, PurePath) else value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item, strict=strict) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, strict=strict) for item in value), key=repr)
    items = value if isinstance(value, Mapping) else _fields(value)
    if items is not None:
        return {str(key): plain(item, strict=strict) for key, item in items.items()}
    if strict and not isinstance(value, COMPARABLE):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return repr(value)


def _fields(value: Any) -> dict[str, Any] | None:
    """Fields of a pydantic model or dataclass, as they are: ``model_dump`` gives sets in any order."""
    if isinstance(value, type):
        return None
    if hasattr(value, "model_dump"):
        names, extra = type(value).model_fields, value.__pydantic_extra__ or {}
    elif dataclasses.is_dataclass(value):
        names, extra = [field.name for field in dataclasses.fields(value)], {}
    else:
        return None
    return {name: getattr(value, name) for name in names} | extra


def state(instance: Any) -> Any:
    """What an instance consists of besides its class.

    Raises:
        TypeError: if that cannot be told, since some of it lives outside of Python, as the elements of an array.
    """
    cls = type(instance)
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        raise TypeError(f"{cls.__name__} is no JSON value")
    return object.__reduce_ex__(instance, 2)[2]


def canonical(value: Any, *, strict: bool = False) -> str:
    """One text for equal values: JSON with sorted keys."""
    return json.dumps(plain(value, strict=strict), sort_keys=True, ensure_ascii=False)


def digest(text: str) -> str:
    """Short SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted names, starting from ``name``."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


def differences(old: Any, new: Any, name: str) -> list[str]:
    """How two values differ, leaf by leaf: ``a.b changed 8 → 10``.

    >>> differences({"epochs": 8, "lr": 0.1}, {"epochs": 10, "lr": 0.1}, "training")
    ['training.epochs changed 8 → 10']
    """
    if canonical(old) == canonical(new):  # in which NaN is NaN, and 1 is neither 1.0 nor True
        return []
    before, after = dict(leaves(old, name)), dict(leaves(new, name))
    changes = []
    for key in {**before, **after}:
        if key not in after:
            changes.append(f"{key} is gone (was {short(before[key])})")
        elif key not in before:
            changes.append(f"{key} is new ({short(after[key])})")
        elif canonical(before[key]) != canonical(after[key]):
            changes.append(f"{key} changed {short(before[key])} → {short(after[key])}")
    return changes or [f"{name} changed {short(old)} → {short(new)}"]


def short(value: Any, limit: int = 60) -> str:
    """``value`` for a message, without secrets and cut to ``limit`` characters."""
    value = shown(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
