"""Passwords and tokens among the parameters: neither stored nor shown, and yet a changed one is noticed."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "key"  # file in the folder of the manifest
FINGERPRINT_LENGTH = 12  # hexadecimal digits: they tell two secrets apart, and say nothing of either without the key

Redact = Callable[[Any, Callable[[str], str] | None], Any]

_redact: list[Redact] = []


def use(redact: Redact) -> None:
    """Say what the secrets of a value are; until then nothing is one. Call it in ``settings.py``.

    Args:
        redact: takes a text or nested JSON values, and a function or None. It returns the value with each secret
            replaced: by what the function makes of it, or by a fixed text for None.
    """
    _redact[:] = [redact]


def shown(value: Any) -> Any:
    """``value`` for a message, without its secrets."""
    return _redact[0](value, None) if _redact else value


def stored(value: Any, folder: Path) -> Any:
    """``value`` for a record, in nested JSON types: in place of a secret stands its keyed hash.

    The folder of the manifest keeps the key, which its owner alone can read and which is made for the first secret;
    without it every secret counts as changed.
    """
    return _redact[0](value, lambda secret: _fingerprint(secret, folder)) if _redact else value


def _fingerprint(secret: str, folder: Path) -> str:
    return hmac.new(_key(folder / KEY), secret.encode(), hashlib.sha256).hexdigest()[:FINGERPRINT_LENGTH]


def _key(path: Path) -> bytes:
    """Read the key; make one where there is none. Two processes that do so at once end with the same."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{os.getpid()}.{path.name}")
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(staged, path)
        except FileExistsError:  # another process was quicker: its key stays
            pass
        except OSError:  # a file system without links
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    return path.read_bytes()
