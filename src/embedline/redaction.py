"""Hide passwords, tokens and signatures in texts, settings and log records."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"

Fingerprint = Callable[[str], str]

# Names of settings and of query parameters, in lower case and without separators.
_SECRET_NAME = re.compile(
    "pass(word|wd|phrase)?|pwd|.*(password|passphrase|secret|apikey|accesskey|privatekey|accountkey|signature)"
    "|secret.*|authorization|.*(auth|access|api|bearer|refresh|security|session|sas|secret|id|user|private)token|token"
    "|accesskeyid|awsaccesskeyid|connectionstring|credential|jwt|cookie|bearer"
)
_SECRET_IN_QUERY = re.compile(
    "(?!.*signedheaders).*(pass|pwd|secret|token|key|sig|auth|cred|jwt|session|user|login|email).*|code|sas"
)
# Only where credentials stand do these hide something: elsewhere `user` and `key` are names of columns.
_SECRET_IN_OPTIONS = re.compile("key|user(name)?|login|email|auth|clientid|tenantid|accountname")
_OPTIONS = frozenset({"storageoptions", "credentials", "clientkwargs", "headers", "auth"})

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>(?:[^\s@]*@)?[^\s'\"<>`]+)")
# Without `scheme://`, as Kedro writes the path of a file on a server.
_USER = re.compile(r"(?<![\w/*.%+-])(?P<value>[\w.%+-]+:[^\s@/'\"]+)@(?=[\w.-]+[:/])")
_QUERY = re.compile(r"(?P<start>[?&](?P<name>[\w.-]+)=)(?P<value>[^\s&#'\"]+)")
_LOOKS_RANDOM = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/_=%.~-]{24,}")
# `'token': 'x'` in the repr of a mapping; `Password=x` of a connection string; `Authorization: Bearer x`.
_QUOTED = re.compile(
    r"""(?P<start>(?P<q>['"])(?P<name>[\w.-]+)(?P=q)\s*:\s*(?P<v>['"]))(?P<value>.*?)(?P<end>(?P=v))"""
)
_PLAIN = re.compile(
    r"(?i)(?P<start>(?<![\w.-])[\w.-]{0,60}(?:password|passwd|pwd|passphrase|secret|secret_?key|api_?key|access_?key|account_?key"
    r"|(?:auth|access|api|session|security|sas)_?token|\.token)\s*=\s*)(?P<value>[^\s;&,'\"]+)"
)
_BEARER = re.compile(r"(?P<start>\b(?:Bearer|Basic)\s+)(?P<value>[A-Za-z0-9+/_=.~-]{8,})")


def redacted(value: Any, fingerprint: Fingerprint | None = None) -> Any:
    """Return ``value`` without passwords, tokens, signatures and the users of addresses.

    A text loses what its addresses hold: user and password before the host, secret query parameters. A mapping, at any
    depth, loses the values of keys such as ``password`` and ``token``. A ``fingerprint``, a keyed hash, stands after
    the ``***`` where given, so that two values can be compared without what they hide.

    >>> redacted("https://joe:pw@host/x.zip?page=2&token=abc")
    'https://***@host/x.zip?page=2&token=***'
    >>> redacted({"source": "s3://bucket/x", "storage_options": {"key": "A", "secret": "B", "anon": False}})
    {'source': 's3://bucket/x', 'storage_options': {'key': '***', 'secret': '***', 'anon': False}}
    """
    return _redacted(
        value, lambda secret: f"{HIDDEN}{fingerprint(secret)}" if fingerprint else HIDDEN, in_options=False
    )


def secrets_in(value: Any) -> list[str]:
    """Return what `redacted` hides of ``value``, also in the spelling of an address, the longest first."""
    found: list[str] = []

    def collect(secret: str) -> str:
        found.append(secret)
        return HIDDEN

    _redacted(value, collect, in_options=False)
    texts = {text for secret in found for text in (secret, *secret.split(":", 1)) if len(text) >= 4}
    return sorted({spelt for text in texts for spelt in (text, quote(text, safe=""), unquote(text))}, key=len)[::-1]


class LogFilter(logging.Filter):
    """Redact the message of a log record, and have it shown as it is.

    Kedro's handler reads names of datasets as markup, in which ``[/INST]`` is an error.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it has to be; it is always shown."""
        vars(record).pop("rich_format", None)  # tells Kedro's handler to use markup
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: the handler reports that itself
            return True
        if (shown := redacted(message)) != message:
            record.msg, record.args = shown, None
        return True


def filter_log_records() -> None:
    """Add a :class:`LogFilter` to each handler of the root logger that has none."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(one, LogFilter) for one in handler.filters):
            handler.addFilter(LogFilter())


def _redacted(value: Any, hide: Fingerprint, *, in_options: bool) -> Any:
    if isinstance(value, str):
        return _redacted_text(value, hide)
    if isinstance(value, Mapping):
        return {key: _redacted_item(str(key), item, hide, in_options) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_redacted(item, hide, in_options=in_options) for item in value]) if _plain(value) else value
    return value


def _plain(value: list[Any] | tuple[Any, ...]) -> bool:
    return type(value) in (list, tuple)  # a named tuple takes its fields one by one


def _redacted_item(key: str, item: Any, hide: Fingerprint, in_options: bool) -> Any:
    name = _bare(key)
    is_secret = bool(_SECRET_NAME.fullmatch(name) or (in_options and _SECRET_IN_OPTIONS.fullmatch(name)))
    if is_secret and isinstance(item, str | int) and not isinstance(item, bool) and item != "":
        return _once(str(item), hide)
    return _redacted(item, hide, in_options=in_options or name in _OPTIONS)


def _redacted_text(text: str, hide: Fingerprint) -> str:
    if "://" in text:
        text = _ADDRESS.sub(lambda match: match["scheme"] + _redacted_address(match["rest"], hide), text)
    if "@" in text:
        text = _USER.sub(lambda match: _once(match["value"], hide) + "@", text)
    if "=" in text or ":" in text or "earer" in text:
        text = _QUOTED.sub(lambda match: _hide_quoted(match, hide), text)
        text = _QUERY.sub(lambda match: match["start"] + _hide_query(match["name"], match["value"], hide), text)
        for pattern in (_PLAIN, _BEARER):
            text = pattern.sub(lambda match: match["start"] + _once(match["value"], hide), text)
    return text


def _redacted_address(rest: str, hide: Fingerprint) -> str:
    """``rest`` is what follows ``://``: user and password, host, path, query, fragment."""
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    before, colon, after = host.partition(":")
    # A password may hold `/` or `@` that should have been escaped: then no port follows the colon.
    reach = rest if colon and "@" in rest and not re.fullmatch("[0-9]*", after) and "[" not in before else host
    user, at, _ = reach.rpartition("@")
    shown = f"{_once(user, hide)}@" if at and user else ""
    pieces = re.split("([?&#;,])", rest[len(user) + len(at) :])
    return shown + pieces[0] + "".join(_redacted_pieces(pieces[1:], hide))


def _redacted_pieces(pieces: list[str], hide: Fingerprint) -> Iterator[str]:
    """``pieces`` are separators and ``name=value``, in turns."""
    for separator, piece in zip(pieces[::2], pieces[1::2], strict=True):
        name, equals, secret = piece.partition("=")
        yield separator + name + equals + _hide_query(name, secret, hide)


def _hide_query(name: str, value: str, hide: Fingerprint) -> str:
    is_secret = _SECRET_IN_QUERY.fullmatch(_bare(name)) or _LOOKS_RANDOM.fullmatch(value)
    return _once(value, hide) if is_secret and value else value


def _hide_quoted(match: re.Match[str], hide: Fingerprint) -> str:
    name = _bare(match["name"])
    if not (_SECRET_NAME.fullmatch(name) or name == "key") or not match["value"]:
        return match[0]
    return match["start"] + _once(match["value"], hide) + match["v"]


def _once(secret: str, hide: Fingerprint) -> str:
    return secret if secret.startswith(HIDDEN) else hide(secret)  # hidden before: redacted(redacted(x)) == redacted(x)


def _bare(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.rsplit(".", 1)[-1].lower())
