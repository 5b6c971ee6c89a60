"""What must never be printed: logins and secret values in URLs, options, headers and any other text.

Three ways, each for what the others cannot see: by the name before a value (`token=...`, `'Authorization': '...'`,
`<Token>...</Token>`), by the shape of a value (a private key, a signed token), and by the value itself, where a source
was given it: a server may repeat a login in an answer without any name.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["MASK", "mask_options", "mask_secrets", "mask_text", "remember_secrets"]

MASK: Final = "***"

SHORTEST = 6
"""Characters of a secret that is remembered: a shorter one may be part of any word."""
MOST_REMEMBERED = 4096
"""Values; logins that are renewed every hour fill it in months, and then the oldest go."""

_SECRET_NAME = re.compile(r"token|sig|secret|passw|credential|auth|cookie|key", re.IGNORECASE)
_USERINFO = re.compile(r"://[^/?#\s]*@")
_QUERY = re.compile(r"(?P<name>[?&;][^=&#?;\s]{1,256}=)[^&#\s'\"]*")

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

_lock = threading.Lock()
_remembered: dict[str, None] = {}
_longest_first: tuple[str, ...] = ()


def mask_secrets(text: str) -> str:
    """`text` with the login and the secret query values of every URL in it replaced by ``***``."""
    return _QUERY.sub(_mask_query, _USERINFO.sub("://***@", text))


def _mask_query(match: re.Match[str]) -> str:
    return match["name"] + MASK if _SECRET_NAME.search(match["name"]) else match[0]


def mask_options(options: object) -> object:
    """A copy of nested options, fit to print: no value under a secret's name, no secret in a URL."""
    if isinstance(options, Mapping):
        return {key: MASK if _SECRET_NAME.search(str(key)) else mask_options(item) for key, item in options.items()}
    if isinstance(options, list | tuple):
        return [mask_options(item) for item in options]
    return mask_secrets(options) if isinstance(options, str) else options


def mask_text(text: str) -> str:
    """Any text, of a log or a traceback, without secrets: in URLs, after a secret's name, by shape, or remembered.

    Rather masks a word too many. Takes time in proportion to the text.
    """
    for value in _longest_first:
        if value in text:
            text = text.replace(value, MASK)
    return _BY_NAME.sub(_keep_name, _BY_SHAPE.sub(MASK, mask_secrets(text)))


def _keep_name(match: re.Match[str]) -> str:
    return (match["header"] or match["pair"] or match["name"] or match["element"]) + MASK


def remember_secrets(options: object) -> None:
    """Mask these secrets in any text from now on: all text under a secret's name, and those in URLs.

    Args:
        options: nested settings; a `SecretStr` is a secret whatever its name.
    """
    global _longest_first
    found = {value for value in _secrets_in(options, named=False) if len(value) >= SHORTEST}
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


def _secrets_in(options: Any, named: bool) -> Iterator[str]:
    if isinstance(options, Mapping):
        for key, item in options.items():
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
    if "://" not in text:
        return
    try:
        parts = urlsplit(text)
    except ValueError:  # no URL after all
        return
    if parts.password:
        yield unquote(parts.password)
    for name, value in parse_qsl(parts.query):
        if _SECRET_NAME.search(name):
            yield value
