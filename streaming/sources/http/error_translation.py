"""Translate the errors of aiohttp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiohttp

from streaming.errors import AccessDenied, SourceTimeout, SourceUnavailable, StreamingError, TruncatedRead
from streaming.sources.http.response import WholeObjectSent
from streaming.sources.proxies import Proxy, unreachable_reason
from streaming.sources.redirects import LinkLocalError
from streaming.sources.status_codes import UnusableAnswer, error_for_status

__all__ = ["translate_errors"]


@contextlib.contextmanager
def translate_errors(
    path: str, source: str, timeout_s: float | None, proxy: Proxy | None = None, setting: str = "host"
) -> Iterator[None]:
    """Translate errors of aiohttp to those of this library.

    Args:
        setting: the name of the setting that names the server.
    """
    where = f"{path!r} of source {source!r}"
    try:
        yield
    except (StreamingError, WholeObjectSent):
        raise
    except TimeoutError as error:
        text = f"{where} did not come within {timeout_s} s (timeout_s); try again or raise that"
        raise SourceTimeout(text, path=path, source=source) from error
    except aiohttp.ClientPayloadError as error:
        text = f"{where} broke off before its announced end; read it again"
        raise TruncatedRead(text, path=path, source=source) from error
    except aiohttp.ClientHttpProxyError as error:
        if error.status == 407:
            raise error_for_status(407, path, source) from error
        message = unreachable_reason(f"it answered {error.status}", setting, proxy)
        raise SourceUnavailable(f"{where} {message}", path=path, source=source) from error
    except (aiohttp.InvalidURL, aiohttp.ClientResponseError) as error:
        text = f"{where} was answered with something that is not HTTP or not a URL ({type(error).__name__})"
        raise SourceUnavailable(f"{text}; try again, then check the URL", path=path, source=source) from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(getattr(error, "os_error", None), LinkLocalError):
            text = f"{where} leads to a link-local address or a cloud's metadata server, which is never contacted"
            raise AccessDenied(text, path=path, source=source) from error
        message = unreachable_reason(f"{type(error).__name__} {error}", setting, proxy)
        raise SourceUnavailable(f"{where} {message}", path=path, source=source) from error
    except ValueError as error:  # such as a control character in the target of a redirect
        text = f"{where} was answered with what aiohttp cannot read or follow ({type(error).__name__})"
        raise UnusableAnswer(f"{text}; check the URL of the source", path=path, source=source) from error
