"""Every wrapper, and all of them together, against the contract of sources."""

from __future__ import annotations

import pytest

from streaming.resilience import Failover, Guard, Hedge, Retry, stack
from streaming.sources.base import DataSource
from streaming.testing import MemorySource
from tests.contracts.source import Place, SourceContract
from tests.sources.test_contract import NOT_IN_MEMORY


class _OverMemory(SourceContract):
    cannot_hold = NOT_IN_MEMORY

    @pytest.fixture
    def memory(self) -> MemorySource:
        """The objects."""
        return MemorySource("memory")

    @pytest.fixture
    def place(self, memory: MemorySource) -> Place:
        """Put objects into the dict behind the source."""

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                memory.delete(path)
            else:
                memory.put(path, data)

        return place


class TestRetry(_OverMemory):
    """A dict with retries."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict with retries."""
        return Retry(memory)


class TestHedge(_OverMemory):
    """A dict with hedged reads."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict with hedged reads."""
        return Hedge(memory)


class TestGuard(_OverMemory):
    """A dict, guarded."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict, guarded."""
        return Guard(memory)


class TestFailover(_OverMemory):
    """A dict as the only replica."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict as the only replica."""
        return Failover([memory])


class TestStack(_OverMemory):
    """A dict under all wrappers."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict under all wrappers."""
        return stack([memory])


class TestStackOfReplicas(_OverMemory):
    """One dict as two replicas, under all wrappers."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """One dict twice."""
        return stack([memory, memory])
