"""Mask secrets: logins and secret values in URLs, options, headers and any other text.

Secrets are found in three ways: by the name before a value (`token=...`, `'Authorization': '...'`,
`<Token>...</Token>`), by the shape of a value (a private key, a signed token), and by the value itself if a source
was configured with it: a server may repeat a login in an answer without any name.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["MASK", "mask_error", "mask_message", "mask_options", "mask_secrets", "mask_text", "remember_secrets"]

MASK: Final = "***"

SHORTEST = 6
"""Fewest characters of a secret that is remembered: a shorter one may be part of any word."""
MOST_CAUSES = 32
LONGEST = 100_000
"""Most characters kept of another library's error, which may quote a whole response."""
MOST_REMEMBERED = 4096
"""Most values; logins that are renewed every hour fill it in months, then the oldest are dropped."""

_SECRET_NAME = re.compile(r"token|sig|secret|passw|credential|auth|cookie|key", re.IGNORECASE)
_PLAIN_HEADERS = re.compile(
    r"accept(?:-encoding|-language)?|cache-control|content-type|date|host|if-(?:none-)?match|range|user-agent",
    re.IGNORECASE,
)
# The second is a password with a character that ends the host's name, unless a port is all that stands there.
_USERINFO = re.compile(r"://(?:[^/?#\s]*@|(?!\[)[^/?#\s@:]{0,256}:(?!\d*(?:[/?#]|$))[^\s@'\"]{0,256}@)")
_BARE_USERINFO = re.compile(r"^[^/?#\s@:]*:(?!//)[^\s@]*@")  # of an endpoint that is written without its scheme
_QUERY = re.compile(r"(?P<name>[?&;](?P<key>[^=&#?;\s]{1,256})=)(?P<value>[^&#\s'\"]*)")
# A value that no person wrote is a signature under any name; names of objects are not.
_OPAQUE = re.compile(r"(?=[^\d]*\d)(?=[^a-zA-Z]*[a-zA-Z])[\w.~%+*:=-]{20,}", re.ASCII)
_QUERY_OF_NAMES = frozenset(("prefix", "marker", "start-after", "delimiter", "path", "file", "name"))

# In running text a name must say more than in options: `key` is a sample's name there, and `max_tokens` a number.
_NAME = (
    r"(?:token|secret|passw(?:or)?d|passphrase|pwd|credentials?|authorization|cookie|signature|\bsig|\bsas"
    r"|(?:api|access|account|auth|private|secret|shared|signing|encryption|session)[-_ ]?key(?:[-_]?id)?)(?:[-_]?\d+)?"
)
_QUOTED = r"(?:\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
_VALUE = rf"(?:[a-z]?{_QUOTED}|\\{{1,3}}\"[^\"\\\n]*\\{{1,3}}\"|(?:(?:bearer|basic) )?[^\s,;&'\"\\(){{}}<>\[\]]+)"
_HEADERS = r"(?:authorization|cookie|x-amz-security-token|x-[\w-]{0,40}(?:token|key|secret))"
_BY_NAME = re.compile(
    # one header to the end of its line: a cookie or a signature has many parts
    rf"(?P<header>\b(?:(?:proxy|set)-)?{_HEADERS}[ \t]?:[ \t]?)[^\"'\s\\][^\"'\r\n\\]*"
    # a pair in a list of headers
    rf"|(?P<pair>\(b?(?P<q>['\"])[\w-]{{0,60}}{_NAME}(?P=q), ?b?){_QUOTED}"
    # name=value, name: value, 'name': 'value', "name": "value", also where the quotation marks are escaped
    rf"|(?P<name>{_NAME}(?:\\{{0,3}}['\"])?\s{{0,2}}(?:=|:|%3D)\s{{0,2}})"
    rf"{_VALUE}(?:\s{{0,2}}[:=]\s{{0,2}}{_VALUE})*"  # what looks like a value may be the next name
    # an element of XML, as S3 answers
    rf"|(?P<element><{_NAME}>)[^<]*",
    re.IGNORECASE,
)
_BY_SHAPE = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\b(?:[Bb]earer|[Bb]asic) (?=[A-Za-z._~+/=-]*\d)[\w.~+/=-]{6,}"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bhf_[A-Za-z0-9]{20,}|\bgh[opsur]_[A-Za-z0-9]{20,}|\bya29\.[\w-]{10,}|\bsk-[\w-]{20,}"
)

# Every match of the expressions contains one of these. Looking for them takes a hundredth of the time.
_HINTS_OF_NAME = ("token", "secret", "pass", "pwd", "credential", "auth", "cookie", "sig", "sas")
_HINTS_OF_KEY = ("api", "access", "account", "private", "shared", "encryption", "session", "x-")  # with "key"
_HINTS_OF_SHAPE = ("-----begin", "bearer ", "basic ", "eyj", "akia", "asia", "hf_", "gh", "ya29.", "sk-")
_NAMES = frozenset(("google_default", "service_account", "authorized_user", "external_account"))

_lock = threading.Lock()
_remembered: dict[str, None] = {}
_longest_first: tuple[str, ...] = ()


def mask_secrets(text: str) -> str:
    """Return `text` with the login and the secret query values of every URL in it replaced by ``***``."""
    if "@" in text:
        text = _USERINFO.sub("://***@", text)
    return _QUERY.sub(_mask_query, text) if "=" in text else text


def _mask_query(match: re.Match[str]) -> str:
    return match["name"] + MASK if _is_secret_value(match["key"], match["value"]) else match[0]


def _is_secret_value(name: str, value: str) -> bool:
    """Whether the value of a URL's query is a secret, by its name or its form."""
    if _SECRET_NAME.search(name):
        return True
    return _OPAQUE.fullmatch(value) is not None and name.lower() not in _QUERY_OF_NAMES


def mask_options(options: object) -> object:
    """Return a copy of nested options for printing: without values under secret names, secrets in URLs and headers."""
    if isinstance(options, Mapping):
        return {
            key: MASK if _SECRET_NAME.search(str(key)) else mask_options(_without_headers(key, item))
            for key, item in options.items()
        }
    if isinstance(options, list | tuple):
        return [mask_options(item) for item in options]
    return _BARE_USERINFO.sub(f"{MASK}@", mask_secrets(options)) if isinstance(options, str) else options


def _without_headers(key: object, item: object) -> object:
    """Return headers without their values, as names do not tell which are secret; other items unchanged."""
    if not (_are_headers(key) and isinstance(item, Mapping)):
        return item
    return {name: value if _PLAIN_HEADERS.fullmatch(str(name)) else MASK for name, value in item.items()}


def _are_headers(key: object) -> bool:
    return str(key).lower().endswith("headers")


def mask_text(text: str) -> str:
    """Return text of a log or a traceback without secrets: in URLs, after a secret's name, by shape, or remembered.

    When in doubt, it masks. Takes time in proportion to the text.
    """
    masked = mask_message(text)
    may_name = _has_any(masked, _HINTS_OF_NAME) or (_has_any(masked, ("key",)) and _has_any(masked, _HINTS_OF_KEY))
    return _BY_NAME.sub(_keep_name, masked) if may_name else masked


def mask_message(text: str) -> str:
    """Mask like `mask_text`, but not by name: for the library's own messages, which name settings and no secrets."""
    for value in _longest_first:
        if value in text:
            text = text.replace(value, MASK)
    masked = mask_secrets(text)
    return _BY_SHAPE.sub(MASK, masked) if _has_any(masked, _HINTS_OF_SHAPE) else masked


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    folded = text.casefold()
    return any(word in folded for word in words)


def _keep_name(match: re.Match[str]) -> str:
    return (match["header"] or match["pair"] or match["name"] or match["element"]) + MASK


def mask_error(error: BaseException, own: type[BaseException]) -> None:
    """Mask in place the text of an error and of its causes, which are printed with it.

    Args:
        error: an error of another library, which may name the URL that it could not read.
        own: errors of this kind are masked already.
    """
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < MOST_CAUSES:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if not isinstance(each, own):
            _mask_one(each)
        waiting += filter(None, (each.__cause__, each.__context__, *getattr(each, "exceptions", ())))


def _mask_one(error: BaseException) -> None:
    parts = tuple(_masked(part) for part in error.args)
    if any(new is not old for new, old in zip(parts, error.args, strict=True)):
        error.args = parts
    for name in ("strerror", "filename", "filename2") if isinstance(error, OSError) else ():
        if (new := _masked(old := getattr(error, name))) is not old:
            setattr(error, name, new)
    try:
        text = str(error)
    except Exception:  # printing it fails in the same way
        return
    masked = text if text in parts else _masked(text)
    if masked is text:
        return
    kind = type(error)  # its text is made of other attributes
    shown = {"__str__": lambda self: masked, "__repr__": lambda self: f"{kind.__name__}({masked!r})"}
    with contextlib.suppress(TypeError):  # a builtin error, whose text is made of the masked arguments
        error.__class__ = type(kind.__name__, (kind,), {**shown, "__module__": kind.__module__, "__slots__": ()})


def _masked(part: Any) -> Any:
    """Return a text without secrets, truncated if very long; the same object if nothing changed."""
    if not isinstance(part, str):
        return part
    masked = mask_text(part if len(part) <= LONGEST else f"{part[:LONGEST]}...")
    return part if masked == part else masked


def remember_secrets(options: object) -> None:
    """Mask these secrets in any text from now on: all text under a secret's name, and secrets in URLs.

    Args:
        options: nested settings; a `SecretStr` is a secret under any name.
    """
    global _longest_first
    found = {value for value in _secrets_in(options, named=False) if len(value) >= SHORTEST and not _is_name(value)}
    if not found:
        return
    found |= {quote(value, safe="") for value in found}
    with _lock:
        for value in found:
            _remembered.pop(value, None)
            _remembered[value] = None
        while len(_remembered) > MOST_REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _longest_first = tuple(sorted(_remembered, key=len, reverse=True))


def _is_name(value: str) -> bool:
    """Whether a value in place of a secret only names one or says where it is: `token: google_default`."""
    return value in _NAMES or value.endswith(".json") or (value.startswith("https://") and mask_secrets(value) == value)


def _secrets_in(options: Any, named: bool) -> Iterator[str]:
    if isinstance(options, Mapping):
        for key, item in options.items():
            if _are_headers(key) and isinstance(item, Mapping):
                item = {name: value for name, value in item.items() if not _PLAIN_HEADERS.fullmatch(str(name))}
                yield from _secrets_in(item, named=True)
            elif not str(key).endswith("_file"):  # a path
                yield from _secrets_in(item, named or _SECRET_NAME.search(str(key)) is not None)
    elif isinstance(options, list | tuple):
        for item in options:
            yield from _secrets_in(item, named)
    elif hasattr(options, "get_secret_value"):
        yield options.get_secret_value()
    elif isinstance(options, str):
        if named:
            yield options
        yield from _secrets_in_url(options)


def _secrets_in_url(text: str) -> Iterator[str]:
    if (bare := _BARE_USERINFO.match(text)) is not None:
        yield bare[0][:-1].partition(":")[2]
    if "://" not in text:
        return
    try:
        parts = urlsplit(text)
    except ValueError:  # not a URL
        return
    if parts.password:
        yield unquote(parts.password)
    for name, value in parse_qsl(parts.query):
        if _is_secret_value(name, value):
            yield value
