"""Values of JSON types: a text and a hash for each, and the difference between two of them in words."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .redaction import shown

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits tell the few thousand modules and values of a project apart


def canonical(value: Any) -> str:
    """One text for each JSON value: its keys are in order."""
    return json.dumps(value, ensure_ascii=False)


def digest(text: str) -> str:
    """Short SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def _untagged(value: Any) -> Any:
    """What a tag is around; the value itself if it has none."""
    if isinstance(value, Mapping) and (tag := next(iter(value), "")).startswith("!") and tag != "!dict":
        return value[tag]
    return value


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted names, starting from ``name``."""
    inner = _untagged(value)
    if isinstance(inner, Mapping) and inner and "!dict" not in inner:
        for key, item in inner.items():
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
            was, now = short(before[key]), short(after[key])
            kinds = "" if was != now else f" ({_kind(before[key])}, now {_kind(after[key])})"
            changes.append(f"{key} changed {was} → {now}{kinds}")
    return changes or [f"{name} changed {short(old)} → {short(new)}"]


def _kind(value: Any) -> str:
    """Type of a JSON value, for two that look alike."""
    tag = next(iter(value), "") if isinstance(value, Mapping) else ""
    return (
        tag[1:]
        if tag.startswith("!")
        else {"str": "a text", "NoneType": "null"}.get(type(value).__name__, type(value).__name__)
    )


def _shown(value: Any) -> Any:
    """A JSON value without tags."""
    value = _untagged(value)
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list) else value


def short(value: Any, limit: int = 60) -> str:
    """``value`` for a message, without secrets and cut to ``limit`` characters."""
    value = shown(_shown(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
