"""How two works of a node differ, in words for the user who wonders why it ran."""

from collections.abc import Set
from typing import Any

from .schemas import Work
from .values import differences


def differences_of_work(old: Work, new: Work, uncertain: Set[str]) -> list[str]:
    """How two works differ, the most telling first: parameters, files, inputs, code, libraries, catalog.

    Args:
        uncertain: inputs that are left out of the comparison.
    """
    reasons = _changes("parameter", old.parameters, new.parameters)
    reasons += [f"content of {path} changed" for path in _changed(old.files, new.files)]
    reasons += [f"{path}, which it reads, changed" for path in _changed(old.opened, new.opened)]
    before, after = ({name: each.digest for name, each in work.inputs.items()} for work in (old, new))
    reasons += [f"input {name} changed" for name in _changed(before, after) if name in after and name not in uncertain]
    if old.wiring != new.wiring:
        reasons.append("its inputs or outputs are others")
    code = sorted(_changed(old.code, new.code), key=lambda name: (name not in new.code, name not in old.code, name))
    reasons += [_code_reason(name, old.code, new.code) for name in code]
    for name in sorted(_changed(old.libraries, new.libraries)):
        reasons.append(f"library {name} {old.libraries.get(name, 'none')} → {new.libraries.get(name, 'none')}")
    return reasons + _changes("catalog entry", old.datasets, new.datasets)


def _changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _changes(kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = {**old, **new}
    return [f"{kind} {change}" for name in names for change in differences(old.get(name, {}), new.get(name, {}), name)]


def _code_reason(name: str, old: dict[str, str], new: dict[str, str]) -> str:
    what = name if name.startswith("values of ") else f"code of {name}"
    return f"{what} is new" if name not in old else f"{what} {'changed' if name in new else 'is no longer used'}"
