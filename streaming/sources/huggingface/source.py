"""Repositories of the Hugging Face Hub: datasets, models and spaces, read at one commit.

A revision is resolved once, at the first use, so a branch that moves never mixes two versions in a run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from streaming.core.logs import get_logger
from streaming.core.masking import remember_secrets
from streaming.errors import AccessDenied, MissingExtra, ObjectNotFoundError
from streaming.sources.base import Blob, DataSource, FileInfo, check_path, check_prefix, check_range
from streaming.sources.huggingface.address import (
    checksums,
    endpoint_of,
    is_offline,
    may_receive_ambient_token,
    parse_address,
)
from streaming.sources.per_loop import opened_before_fork
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.huggingface.offline import CachedRepo
    from streaming.sources.huggingface.online import OnlineRepo

logger = get_logger(__name__)


class HuggingFaceDataSource(DataSource):
    """A folder of a repository: `hf://datasets/ORG/NAME@REVISION/FOLDER`, `hf://spaces/...`, `hf://ORG/NAME` (a model).

    A plain `ORG/NAME` is a dataset. `storage_options` takes `repo_type` (dataset, model, space), `revision`,
    `endpoint` (else HF_ENDPOINT), `token` (False sends none) and `cache_dir`. The token comes from `credentials`,
    else from `storage_options`, else from huggingface_hub: HF_TOKEN, then the login file. It is sent to the Hub's host
    only, never to the storage that the Hub redirects to. One from huggingface_hub is sent only to huggingface.co and
    HF_ENDPOINT, over https; another `endpoint` gets no token, unless it is on loopback.

    The ETag of a file is the Hub's id of its content: SHA-256 for LFS files, else the git blob id. The version of a
    blob is the commit. With HF_HUB_OFFLINE=1 only huggingface_hub's cache on this disk is read.

    A pickle includes the commit, once it is known. A forked child cannot use a source that its parent opened: it gets
    `ClosedError`.

    Raises:
        ConfigError: when made, for an unknown engine, option or credential, or a URL that names no repository.
        MissingExtra: at the first use, if huggingface_hub is not installed.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        self._address = parse_address(config)
        self._commit = self._address.revision if self._address.is_pinned else None
        self._pid = 0
        self._repo: OnlineRepo | CachedRepo | None = None
        self._opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def revision(self) -> str | None:
        """The commit that is read; None before the first use of a branch or tag."""
        return self._commit

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        check_path(path)
        check_range(path, start, end, self.name)
        if path.endswith("/"):
            text = f"{path!r} of source {self.name!r} is a folder; name a file in it, or list it"
            raise ObjectNotFoundError(text, path=path, source=self.name)
        repo = self._repo
        if repo is None or self._pid != os.getpid():
            repo = await self._opened()
        return await repo.read(path, start, end)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        check_prefix(prefix)
        repo, skips = await self._opened(), Skips()
        async for info in repo.iter_files(prefix, skips):
            yield info
        self.skipped = skips

    def is_unchanged(self, blob: Blob, is_listed: Callable[[str], bool]) -> bool:
        """Whether a read brought the content of the commit.

        A commit does not change, but a mirror or proxy may have ETags of its own. So another ETag than that of the
        listing does not prove a change: if the read brought the whole file, its checksum is compared with the listing.
        """
        if super().is_unchanged(blob, is_listed) or len(blob.data) != blob.size:
            return True
        return any(is_listed(checksum) for checksum in checksums(blob.data))

    async def aclose(self) -> None:
        self._closed = True
        repo, self._repo = self._repo, None
        if repo is not None and self._pid == os.getpid():
            await repo.aclose()

    async def _opened(self) -> OnlineRepo | CachedRepo:
        """Return the repository at its commit, opened by the first caller."""
        self._check_open()
        if self._pid not in (0, os.getpid()):
            raise opened_before_fork(self.name, self._pid)
        async with self._opening.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if (known := self._repo) is not None:
                return known
            repo = await self._open()
            if (known := self._repo) is None and not self._closed:
                self._pid, self._commit, self._repo = os.getpid(), repo.commit, repo
                return repo
            await repo.aclose()  # another loop was faster, or the source was closed meanwhile
            self._check_open()
            assert known is not None
            return known

    async def _open(self) -> OnlineRepo | CachedRepo:
        if is_offline():
            return await asyncio.to_thread(self._open_cache)
        endpoint, headers = await asyncio.to_thread(self._login)
        from streaming.sources.huggingface.online import OnlineRepo

        repo = OnlineRepo(self.config, self._address, endpoint, headers, self._commit, self._receive)
        try:
            await repo.pin()
        except BaseException:
            await repo.aclose()
            raise
        return repo

    def _open_cache(self) -> CachedRepo:
        from streaming.sources.huggingface.offline import CachedRepo

        cache = self.config.storage_options.get("cache_dir") or _huggingface_hub(self.name).constants.HF_HUB_CACHE
        return CachedRepo(self.config, self._address, os.path.expanduser(cache), self._commit)

    def _login(self) -> tuple[str, dict[str, str]]:
        """Return the endpoint and the headers with the login; may read files, or refresh a login over the network."""
        hub = _huggingface_hub(self.name)
        secret = (self.config.credentials or {}).get("token")
        token = self.config.storage_options.get("token") if secret is None else secret.get_secret_value()
        endpoint = endpoint_of(self.config)
        if token in (None, True) and not may_receive_ambient_token(endpoint):
            self._withhold(endpoint, is_wanted=token is True, is_found=hub.utils.get_token() is not None)
            token = False
        headers: dict[str, str] = hub.utils.build_hf_headers(token=token, library_name="aiprod-streaming")
        remember_secrets({"token": headers.get("authorization", "").removeprefix("Bearer ")})
        return endpoint, headers

    def _withhold(self, endpoint: str, *, is_wanted: bool, is_found: bool) -> None:
        if is_wanted:
            text = f"the token of this machine is not sent to {endpoint!r}, which only source {self.name!r} names"
            raise AccessDenied(f"{text}; give a token in credentials, or set HF_ENDPOINT", source=self.name)
        if is_found:
            logger.warning("login_withheld source=%s endpoint=%s", self.name, endpoint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,), {"_commit": self._commit}


def _huggingface_hub(source: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        text = f"source {source!r} needs huggingface_hub; install it by: pip install 'aiprod-streaming[hf]'"
        raise MissingExtra(text, source=source) from error
    return huggingface_hub
