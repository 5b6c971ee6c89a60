"""What must never be printed: logins and secret values in URLs and in options."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["mask_options", "mask_secrets"]

_SECRET_NAME = re.compile(r"token|sig|secret|passw|credential|auth|cookie|key", re.IGNORECASE)
_USERINFO = re.compile(r"://[^/?#\s]*@")
_SECRET_QUERY = re.compile(rf"([?&;][^=&#\s]*(?:{_SECRET_NAME.pattern})[^=&#\s]*=)[^&#\s'\"]*", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """`text` with the login and the secret query values of every URL in it replaced by ``***``."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("://***@", text))


def mask_options(options: object) -> object:
    """A copy of nested options, fit to print: no value under a secret's name, no secret in a URL."""
    if isinstance(options, Mapping):
        return {key: "***" if _SECRET_NAME.search(str(key)) else mask_options(item) for key, item in options.items()}
    if isinstance(options, list | tuple):
        return [mask_options(item) for item in options]
    return mask_secrets(options) if isinstance(options, str) else options
