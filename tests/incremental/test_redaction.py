"""Passwords among parameters and settings of datasets are not stored, and a changed one is noticed all the same."""

import json
import stat
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from shop import Shop

from embedline.redaction import redacted
from kedro_incremental import redaction
from kedro_incremental.canonical_json import differences
from kedro_incremental.provenance import explain


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    before = list(redaction._redact)
    redaction.use(redacted)
    yield
    redaction._redact[:] = before


def files(shop: Shop) -> str:
    """What the manifest keeps, as text."""
    return (shop.root / "data" / ".runs" / "manifest.db").read_bytes().decode(errors="replace")


def test_a_password_is_not_stored_and_a_changed_one_is_noticed(shop: Shop) -> None:
    shop.parameters["title"] = "https://joe:S3CRET-1@host/a?token=S3CRET-1"
    assert shop.ran() == ["clean", "add", "describe"]
    assert "https://***" in files(shop) and "S3CRET" not in files(shop)
    assert shop.ran() == []
    shop.parameters["title"] = "https://joe:S3CRET-1@host/a?token=S3CRET-2"
    assert shop.ran() == ["describe"]
    assert "title changed https://***" in files(shop) and "S3CRET" not in files(shop)
    out = StringIO()
    Console(file=out, width=200).print(explain(shop.manifest, "text"))
    assert "title = https://***" in out.getvalue() and "S3CRET" not in out.getvalue()
    key = shop.manifest.folder / redaction.KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.glob(".*")] == []


def test_two_projects_have_different_hashes_of_one_password(shop: Shop) -> None:
    one, other = (redaction.fingerprinted({"password": "S3CRET"}, shop.root / name) for name in ("one", "other"))
    assert one != other and "S3CRET" not in json.dumps([one, other])
    assert redaction.fingerprinted({"password": "S3CRET"}, shop.root / "one") == one
    assert not (shop.root / "third").exists()
    assert redaction.fingerprinted({"rows": 3}, shop.root / "third") == {"rows": 3}
    assert not (shop.root / "third").exists()  # no secret, no key


def test_notes_of_runs_and_differences_of_old_records_hide_passwords(shop: Shop, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["kedro", "run", "--params", "a.source=https://joe:S3CRET@host/a?sig=S3CRET"])
    with shop.manifest.locked("v001"):
        assert "a.source=https://***@host/a?sig=***" in files(shop) and "S3CRET" not in files(shop)
    (change,) = differences({"source": "https://joe:S3CRET@host/a"}, {"source": "generated"}, "shop")
    assert change == "shop.source changed https://***@host/a → generated"
