"""How two works of a node differ, in words for the user who wonders why it ran."""

from collections.abc import Set

from .schemas import Work
from .values import differences


def differences_of_work(old: Work, new: Work, uncertain: Set[str]) -> list[str]:
    """How two works differ, the most telling first: parameters, files, inputs, code, libraries, catalog.

    Args:
        uncertain: inputs that are left out of the comparison.
    """
    reasons = []
    for name in {**old.parameters, **new.parameters}:
        before, after = old.parameters.get(name, {}), new.parameters.get(name, {})
        reasons += [f"parameter {change}" for change in differences(before, after, name)]
    paths = {**old.files, **new.files}
    reasons += [f"content of {path} changed" for path in paths if old.files.get(path) != new.files.get(path)]
    paths = {**old.opened, **new.opened}
    reasons += [f"{path}, which it reads, changed" for path in paths if old.opened.get(path) != new.opened.get(path)]
    certain = [name for name in new.inputs if name not in uncertain]
    reasons += [f"input {name} changed" for name in certain if _digest(old, name) != _digest(new, name)]
    if old.wiring != new.wiring:
        reasons.append("its inputs or outputs are others")
    reasons += _code_reasons(old.code, new.code)
    for name in sorted({**old.libraries, **new.libraries}):
        before, after = old.libraries.get(name, "none"), new.libraries.get(name, "none")
        if before != after:
            reasons.append(f"library {name} {before} → {after}")
    for name in {**old.datasets, **new.datasets}:
        before, after = old.datasets.get(name, {}), new.datasets.get(name, {})
        reasons += [f"catalog entry {change}" for change in differences(before, after, name)]
    return reasons


def _digest(work: Work, name: str) -> str | None:
    return work.inputs[name].digest if name in work.inputs else None


def _code_reasons(old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    added, gone = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return [
        *(f"{_code(name)} changed" for name in changed),
        *(f"{_code(name)} is new" for name in added),
        *(f"{_code(name)} is no longer used" for name in gone),
    ]


def _code(name: str) -> str:
    return name if name.startswith("values of ") else f"code of {name}"
