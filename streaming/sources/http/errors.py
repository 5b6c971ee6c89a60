"""What the errors of aiohttp mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiohttp

from streaming.errors import AccessDenied, SourceTimeout, SourceUnavailable, StreamingError, TruncatedRead
from streaming.sources.http.response import SentWhole
from streaming.sources.proxies import Proxy, unreached
from streaming.sources.redirects import LinkLocal
from streaming.sources.status_codes import UnusableAnswer, error_of_status

__all__ = ["translated"]


@contextlib.contextmanager
def translated(
    path: str, source: str, timeout_s: float | None, proxy: Proxy | None = None, setting: str = "host"
) -> Iterator[None]:
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
        told = unreached(f"it answered {error.status}", setting, proxy)
        raise SourceUnavailable(f"{where} {told}", path=path, source=source) from error
    except (aiohttp.InvalidURL, aiohttp.ClientResponseError) as error:
        text = f"{where} was answered by something that is not HTTP or leads to no URL ({type(error).__name__})"
        raise SourceUnavailable(f"{text}; try again, then check the URL", path=path, source=source) from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(getattr(error, "os_error", None), LinkLocal):
            text = f"{where} leads to a host whose address is of the local link or of a cloud, which is never asked"
            raise AccessDenied(text, path=path, source=source) from error
        told = unreached(f"{type(error).__name__} {error}", setting, proxy)
        raise SourceUnavailable(f"{where} {told}", path=path, source=source) from error
    except ValueError as error:  # such as a control character in what a redirect leads to
        text = f"{where} was answered with what aiohttp cannot read or follow ({type(error).__name__})"
        raise UnusableAnswer(f"{text}; check the URL of the source", path=path, source=source) from error
