"""Messages, records and pages hold no password, token or signature, and leave alone what only looks like one."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from embedline.errors import DataError, did_you_mean, refused_setting
from embedline.redaction import redacted, secrets_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://joe:S3CRET@host/ml.zip?token=S3CRET", "https://***@host/ml.zip?token=***"),
        ("https://S3CRET@github.com/a.zip", "https://***@github.com/a.zip"),
        ("https://joe:S3C@S3C/RET#x@host/a.zip", "https://***@host/a.zip"),
        ("https://joe:S3C'RET@host/a.zip", "https://***@host/a.zip"),
        ("s3://KEY:S3CRET@bucket/a.zip", "s3://***@bucket/a.zip"),
        ("['https://joe:S3CRET@host/a', 'https://x/b@2', 'joe@x']", "['https://***@host/a', 'https://x/b@2', 'joe@x']"),
        ("simplecache::s3://KEY:S3CRET@bucket/a.zip", "simplecache::s3://***@bucket/a.zip"),
        (
            "https://b.s3.amazonaws.com/a.zip?X-Amz-Credential=S3CRET&X-Amz-Date=20260101T000000Z&X-Amz-Signature=S3CRET",
            "https://b.s3.amazonaws.com/a.zip?X-Amz-Credential=***&X-Amz-Date=20260101T000000Z&X-Amz-Signature=***",
        ),
        ("https://a.blob.core.windows.net/b/c.zip?sv=2020&sig=S3CRET%3D", "https://a.blob.core.windows.net/b/c.zip?sv=2020&sig=***"),
        ("https://host/a.zip?page=2&key=S3CRET#access_token=S3CRET", "https://host/a.zip?page=2&key=***#access_token=***"),
        ("https://host/a.zip?k=S3CRETabcdefghij0123456789", "https://host/a.zip?k=***"),
        ("403, message='no', url='http://joe:S3CRET@h/a?token=S3CRET'", "403, message='no', url='http://***@h/a?token=***'"),
        ("run --params a.source=https://j:S3CRET@h/x,a.token=S3CRET,b.c=1", "run --params a.source=https://***@h/x,a.token=***,b.c=1"),
        ("f(options={'key': 'S3CRET', 'secret': 'S3CRET'})", "f(options={'key': '***', 'secret': '***'})"),
        ("CSVDataset(filepath=joe:S3CRET@host/a.csv?token=S3CRET)", "CSVDataset(filepath=***@host/a.csv?token=***"),
        ("Server=h;Uid=joe;Password=S3CRET;", "Server=h;Uid=joe;Password=***;"),
        ("{'Authorization': 'Bearer S3CRETS3CRET'}", "{'Authorization': '***'}"),
        ("Authorization: Bearer S3CRETS3CRET", "Authorization: Bearer ***"),
    ],
)  # fmt: skip
def test_secrets_of_a_text(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert str(DataError(f"{text} is at fault")) == f"{shown} is at fault"
    kept = redacted(text, lambda secret: f"<{len(secret)}>")
    assert "S3C" not in kept and "***<" in kept and redacted(kept, lambda secret: "again") == kept


@pytest.mark.parametrize(
    "value",
    [
        "https://host:8080/users@2/a.zip?page=2&id=7",
        "https://[::1]:8080/a.zip",
        "data/01_raw/tickets",
        "unknown token: hello, max_tokens=5",
        "git@github.com:joe/project.git",
        "at 10:30:00, joe@host.example has a/b?page=2 of it; ratio 3:2 @ 5",
        {"columns": {"user": "user", "item": "key", "key": "Store"}, "tokens": 3, "max_tokens": 4, "anon": True},
        {"storage_options": {"anon": True, "endpoint_url": "http://host:9000", "token": None, "secret": ""}},
    ],
)
def test_what_is_no_secret_stays(value: Any) -> None:
    assert redacted(value) == value and secrets_in(value) == []


def test_secrets_of_nested_values() -> None:
    value = {
        "source": "https://joe:S3CRET@host/x",
        "storage_options": {"key": "S3CRET", "client_kwargs": {"headers": {"Authorization": "S3CRET", "Accept": "*"}}},
        "databases": [{"url": "postgresql://joe:S3CRET@host/db", "password": 1234}],
        "api_token": "S3CRET",
    }
    assert redacted(value) == {
        "source": "https://***@host/x",
        "storage_options": {"key": "***", "client_kwargs": {"headers": {"Authorization": "***", "Accept": "*"}}},
        "databases": [{"url": "postgresql://***@host/db", "password": "***"}],
        "api_token": "***",
    }
    assert {"S3CRET", "joe:S3CRET", "1234"} <= set(secrets_in(value))


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("trian", {"flats.train", "flats.encode"}, ": did you mean 'flats.train'?"),
        ("flts", {"flats", "films"}, ": did you mean 'flats'?"),
        ("zzz", {"b", "a"}, "; there are a, b"),
        ("zzz", set(), "; there are none"),
    ],
)
def test_the_nearest_name_or_all_of_them(name: str, known: set[str], hint: str) -> None:
    assert did_you_mean(name, known) == hint


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sizes: tuple[int, ...] = ()


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = 1
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epoch": 3, "epochs": "many"}, ("flats.training.epoch:", "'epochs'")),  # the misspelt key first
        ({"epochs": "many"}, ("flats.training.epochs:", "integer", "'many'")),
        ({"inner": {"size": 1}}, ("flats.training.inner.size:", "'sizes'")),
        ({"inner": {"sizes": 5}}, ("flats.training.inner.sizes:", "a list", "5")),
        (3, ("flats.training:", "3")),
    ],
)
def test_a_refused_setting_is_one_line_with_its_key(given: Any, named: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(given)
    said = refused_setting("flats.training", Outer | None, raised.value)
    assert all(name in said for name in named) and "\n" not in said and "pydantic" not in said, said
