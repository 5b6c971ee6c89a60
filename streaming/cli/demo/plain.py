"""The data set that most people write first: one request at a time, no cache."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from torch.utils.data import Dataset

from streaming.cli.demo.features import event_features
from streaming.errors import SourceUnavailable

__all__ = ["PlainRecordings"]


class PlainRecordings(Dataset[Any]):
    """Recordings read on demand, over one connection that stays open.

    Args:
        names: names of the recordings.
        labels: folder with the labels.
        events_url: URL of the folder with `NAME.json`, the events, ending in a slash.

    Attributes:
        fetched_bytes: bytes of events and labels read so far.
    """

    def __init__(self, names: Sequence[str], labels: Path, events_url: str) -> None:
        self.fetched_bytes = 0
        self._names = names
        self._labels = labels
        parts = urlsplit(events_url)
        self._folder = parts.path
        self._connection = http.client.HTTPConnection(parts.netloc)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        label = (self._labels / f"{name}.json").read_bytes()
        events = self._get(f"{name}.json")
        self.fetched_bytes += len(label) + len(events)
        return event_features({"events": json.loads(events), "label": json.loads(label)})

    def _get(self, name: str) -> bytes:
        self._connection.request("GET", self._folder + quote(name))
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise SourceUnavailable(f"{name}: the demo's server answered {answer.status}", path=name, source="events")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
