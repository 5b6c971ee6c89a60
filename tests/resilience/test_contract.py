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
        """Objects put into the dict behind the source."""

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                memory.delete(path)
            else:
                memory.put(path, data)

        return place


class TestRetry(_OverMemory):
    """A dict, tried again."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict, tried again."""
        return Retry(memory)


class TestHedge(_OverMemory):
    """A dict, asked twice when late."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict, hedged."""
        return Hedge(memory)


class TestGuard(_OverMemory):
    """A dict, guarded."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict, guarded."""
        return Guard(memory)


class TestFailover(_OverMemory):
    """A dict as the only copy."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict as the only copy."""
        return Failover([memory])


class TestStack(_OverMemory):
    """A dict behind everything."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """The dict behind everything."""
        return stack([memory])


class TestStackOfCopies(_OverMemory):
    """Two names of one dict as copies of each other, behind everything."""

    @pytest.fixture
    def source(self, memory: MemorySource) -> DataSource:
        """One dict twice."""
        return stack([memory, memory])
