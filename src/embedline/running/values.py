"""Values as JSON that compares: parameters, settings of datasets, and the difference between two of them."""

import dataclasses
import datetime
import enum
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits tell the few thousand definitions of a project apart


def plain(value: Any, *, strict: bool = False) -> Any:
    """``value`` as JSON types: pydantic models and dataclasses become mappings, tuples lists.

    Raises:
        TypeError: if ``strict`` and there is a value that JSON does not have; otherwise its ``repr`` stands for it,
            which for most objects differs in every process: they count as changed.
    """
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, strict=strict) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, strict=strict) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, strict=strict) for item in value), key=repr)
    if strict and not isinstance(value, datetime.date | PurePath | enum.Enum | str | int | float):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return repr(value)


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
    before, after = dict(leaves(old, name)), dict(leaves(new, name))
    changes = []
    for key in {**before, **after}:
        if key not in after:
            changes.append(f"{key} is gone (was {short(before[key])})")
        elif key not in before:
            changes.append(f"{key} is new ({short(after[key])})")
        elif before[key] != after[key]:
            changes.append(f"{key} changed {short(before[key])} → {short(after[key])}")
    return changes


def short(value: Any, limit: int = 60) -> str:
    """``value`` for a message, cut to ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
