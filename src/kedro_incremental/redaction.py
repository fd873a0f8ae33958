"""Passwords and tokens among the parameters: neither stored nor shown, and yet a changed one is noticed."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "key"  # file in the folder of the manifest
_redact: list[Callable[[Any, Callable[[str], str] | None], Any]] = []


def use(redact: Callable[[Any, Callable[[str], str] | None], Any]) -> None:
    """Set the function that finds secrets; until then nothing is one. Call it in ``settings.py``.

    Args:
        redact: takes a text or nested JSON values, and a function or None. It returns the value with each secret
            replaced: by what the function returns for it, or by a fixed text for None.
    """
    _redact[:] = [redact]


def redacted(value: Any) -> Any:
    """``value`` without its secrets, for a message."""
    return _redact[0](value, None) if _redact else value


def fingerprinted(value: Any, folder: Path) -> Any:
    """``value`` with the keyed hash of each secret in its place, for the manifest in ``folder``.

    The folder keeps the key. Only its owner can read it; without it every secret counts as changed.
    """
    return _redact[0](value, lambda secret: _fingerprint(secret, folder / KEY)) if _redact else value


def _fingerprint(secret: str, path: Path) -> str:
    if not path.exists():  # of two keys that are made at once one stays: what has the other's hash counts as changed
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{os.getpid()}.{path.name}")
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        os.replace(staged, path)
    return hmac.new(path.read_bytes(), secret.encode(), hashlib.sha256).hexdigest()[:12]
