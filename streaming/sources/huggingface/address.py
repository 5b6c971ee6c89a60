"""Parse and check the configuration of a Hub source."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from streaming.core.config_model import suggest
from streaming.core.masking import mask_secrets
from streaming.errors import ConfigError, InvalidPath
from streaming.sources.ambient_credentials import HUGGING_FACE, may_receive_ambient_credentials
from streaming.sources.base import Buffer, check_prefix
from streaming.sources.config_checks import check_engine_and_options

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig

_TYPES = {"dataset": "datasets", "model": "models", "space": "spaces"}
_OPTIONS = ("cache_dir", "endpoint", "repo_type", "revision", "token")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Some old repositories have no organization; two kinds of revisions have slashes.
_PLACE = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?", re.ASCII)
_YES = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its variables


@dataclass(frozen=True)
class HubAddress:
    """Where a Hub source reads.

    Attributes:
        repo_type: dataset, model or space.
        repo_id: organization/name, or the bare name of an old repository.
        revision: branch, tag or commit.
        folder: the root of the source in the repository; empty, or ending in `/`.
    """

    repo_type: str
    repo_id: str
    revision: str
    folder: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit already."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def shown(self) -> str:
        """The repository as messages show it."""
        return f"{self.repo_type} {self.repo_id}"

    def page(self, endpoint: str) -> str:
        """Return the URL of the repository's page, for people."""
        kind = "" if self.repo_type == "model" else f"{_TYPES[self.repo_type]}/"
        return f"{endpoint}/{kind}{self.repo_id}"

    def repository_url(self, endpoint: str) -> str:
        """Return a URL that answers if the repository exists, whatever its revisions."""
        return self._api(endpoint)

    def revision_url(self, endpoint: str) -> str:
        """Return the URL of the API that gives the commit of the revision."""
        return f"{self._api(endpoint)}/revision/{quote(self.revision, safe='')}?expand=sha"

    def tree_url(self, endpoint: str, commit: str, folder: str) -> str:
        """Return the URL of the first page of a listing of all files below a folder, given without a final slash."""
        below = f"/{quote(folder, safe='', errors='surrogateescape')}" if folder else ""
        return f"{self._api(endpoint)}/tree/{commit}{below}?recursive=true&expand=false"

    def file_url(self, endpoint: str, commit: str) -> str:
        """Return the root URL of the source's files, ending in a slash."""
        return f"{self.page(endpoint)}/resolve/{commit}/{quote(self.folder, errors='surrogateescape')}"

    def _api(self, endpoint: str) -> str:
        return f"{endpoint}/api/{_TYPES[self.repo_type]}/{self.repo_id}"


def parse_address(config: DataSourceConfig) -> HubAddress:
    """Parse a configuration.

    Raises:
        ConfigError: for an unknown engine, option or credential, a URL that names no repository, or settings that
            contradict (a revision in the URL and another in the options).
    """
    _check_settings(config)
    options, text = config.storage_options, config.path_or_uri
    kind = "dataset"  # of a plain `org/name`
    if "://" in text:
        text, kind = text.partition("://")[2], "model"
    first, _, rest = text.partition("/")
    for known, folder in _TYPES.items():
        if first == folder and rest:
            if options.get("repo_type", known) != known:
                raise _refused(config, f"is a {known}, and repo_type says {options['repo_type']!r}; keep one")
            text, kind = rest, known
    match = _PLACE.fullmatch(text.rstrip("/"))
    if match is None:
        raise _refused(config, "names no repository; write hf://datasets/ORG/NAME@REVISION/FOLDER")
    repo, folder = match[1], match[3] or ""
    revision = None if match[2] is None else unquote(match[2])
    if revision is not None and options.get("revision", revision) != revision:
        raise _refused(config, f"and revision={options['revision']!r} differ; keep one")
    try:
        check_prefix(folder)
    except InvalidPath as error:
        raise _refused(config, "has a folder that leaves the repository") from error
    revision = revision or options.get("revision") or "main"
    return HubAddress(options.get("repo_type", kind), repo, revision, f"{folder}/" if folder else "")


def _check_settings(config: DataSourceConfig) -> None:
    options = config.storage_options
    check_engine_and_options(config, "Hub", ("aiohttp",), _OPTIONS)
    if options.get("repo_type", "dataset") not in _TYPES:
        text = f"repo_type {options['repo_type']!r} of source {config.name!r}: {suggest(options['repo_type'], _TYPES)}"
        raise ConfigError(text, source=config.name)
    if set(config.credentials or ()) - {"token"}:
        names = ", ".join(sorted(config.credentials or ()))
        raise ConfigError(
            f"credentials of Hub source {config.name!r} must be a token, not: {names}", source=config.name
        )
    if options.get("endpoint") is not None:
        checked_endpoint(options["endpoint"], config.name)


def _refused(config: DataSourceConfig, why: str) -> ConfigError:
    return ConfigError(f"{config.shown_uri!r} of source {config.name!r} {why}", source=config.name)


def checked_endpoint(url: object, source: str) -> str:
    """Return the URL of a Hub without a final slash.

    Raises:
        ConfigError: if it is not an HTTP URL, or has a login or a query.
    """
    parts = urlsplit(str(url))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query:
        text = f"endpoint {mask_secrets(str(url))!r} of source {source!r} is not like https://huggingface.co"
        raise ConfigError(f"{text}; a login goes into token", source=source)
    return str(url).rstrip("/")


def endpoint_of(config: DataSourceConfig) -> str:
    """Return the Hub: `storage_options["endpoint"]`, else HF_ENDPOINT, else the default of huggingface_hub."""
    from huggingface_hub import constants

    given = config.storage_options.get("endpoint") or os.environ.get("HF_ENDPOINT")
    return checked_endpoint(given or constants.ENDPOINT, config.name)


def may_receive_ambient_token(endpoint: str) -> bool:
    """Whether a Hub may receive the token that huggingface_hub finds on this machine."""
    from huggingface_hub import constants

    return may_receive_ambient_credentials(endpoint, HUGGING_FACE, [os.environ.get("HF_ENDPOINT"), constants.ENDPOINT])


def is_offline() -> bool:
    """Whether the user forbade requests, by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return any(os.environ.get(name, "").upper() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def checksums(data: Buffer) -> Iterator[str]:
    """Yield the checksums that a listing of the Hub may have for this content: git blob id, and SHA-256 for LFS."""
    head = b"blob %d\0" % memoryview(data).nbytes
    git_blob = hashlib.sha1(head, usedforsecurity=False)
    git_blob.update(data)
    yield git_blob.hexdigest()
    yield hashlib.sha256(data).hexdigest()
