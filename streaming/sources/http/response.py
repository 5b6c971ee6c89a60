"""What an answer of a web server says beside its body, and what aiohttp's errors mean."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import aiohttp

from streaming.errors import AccessDenied, SourceTimeout, SourceUnavailable, StreamingError, TruncatedRead
from streaming.sources import header_values
from streaming.sources.base import too_large
from streaming.sources.proxies import Proxy, unreached
from streaming.sources.redirects import LinkLocal
from streaming.sources.status_codes import UnusableAnswer, error_of_status

__all__ = ["SentWhole", "content_range", "range_header", "translated", "unpacked"]


class SentWhole(Exception):
    """The server answered a range with the whole object."""


def range_header(start: int, end: int | None) -> dict[str, str]:
    """The header that asks for a part; an empty one cannot be asked for, and one byte brings the size too."""
    if not start and end is None:
        return {}
    return {"Range": f"bytes={start}-" if end is None else f"bytes={start}-{max(end - 1, start)}"}


def content_range(answer: aiohttp.ClientResponse) -> header_values.ContentRange:
    """What Content-Range tells."""
    return header_values.content_range(answer.headers.get("Content-Range"))


def unpacked(packed: bytes, path: str, source: str, limit: int) -> bytes:
    """What a body of the encoding gzip or deflate holds.

    Raises:
        ObjectTooLargeError: if that is more than `limit`, of which no more is unpacked.
        TruncatedRead: if it is damaged or ends early.
    """
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # finds out whether gzip or zlib
    try:
        data = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        text = f"{path!r} of source {source!r} came in a damaged encoding: {error}; read it again"
        raise TruncatedRead(text, path=path, source=source) from error
    if len(data) > limit:
        raise too_large(path, len(data), limit, source)
    if not unpacker.eof:
        text = f"{path!r} of source {source!r} came in an encoding that ends early; read it again"
        raise TruncatedRead(text, path=path, source=source)
    return data


@contextlib.contextmanager
def translated(path: str, source: str, timeout_s: float | None, proxy: Proxy | None = None) -> Iterator[None]:
    """Turns aiohttp's errors into this library's."""
    where = f"{path!r} of source {source!r}"
    try:
        yield
    except (StreamingError, SentWhole):
        raise
    except TimeoutError as error:
        text = f"{where} did not come within {timeout_s} s (timeout_s); try again or raise that"
        raise SourceTimeout(text, path=path, source=source) from error
    except aiohttp.ClientPayloadError as error:
        text = f"{where} broke off before its announced end; read it again"
        raise TruncatedRead(text, path=path, source=source) from error
    except aiohttp.ClientHttpProxyError as error:
        if error.status == 407:
            raise error_of_status(407, path, source) from error
        told = unreached(f"it answered {error.status}", proxy=proxy)
        raise SourceUnavailable(f"{where} {told}", path=path, source=source) from error
    except (aiohttp.InvalidURL, aiohttp.ClientResponseError) as error:
        text = f"{where} was answered by something that is not HTTP or leads to no URL ({type(error).__name__})"
        raise SourceUnavailable(f"{text}; try again, then check the URL", path=path, source=source) from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(getattr(error, "os_error", None), LinkLocal):
            text = f"{where} leads to a host whose address is of the local link or of a cloud, which is never asked"
            raise AccessDenied(text, path=path, source=source) from error
        told = unreached(f"{type(error).__name__} {error}", proxy=proxy)
        raise SourceUnavailable(f"{where} {told}", path=path, source=source) from error
    except ValueError as error:  # such as a control character in what a redirect leads to
        text = f"{where} was answered with what aiohttp cannot read or follow ({type(error).__name__})"
        raise UnusableAnswer(f"{text}; check the URL of the source", path=path, source=source) from error
