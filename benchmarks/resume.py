"""How long does it take to resume in the middle of a billion samples?

A new loader over 10**9 samples loads the state of another one that is halfway through, and reads the first batch. Also
the size of the state as JSON.
"""

from __future__ import annotations

import json
import time

import report
import torch
from torch.utils.data import Dataset

from streaming.loader.data_loader import StreamingDataLoader

N = 10**9
BATCH = 64
WORLD = 8


class Billion(Dataset[int]):
    """A data set in which each sample is its number."""

    fingerprint = "0123456789abcdef" * 2

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        return index


def loader(seed: int) -> StreamingDataLoader:
    """Return the loader of the third of eight ranks."""
    return StreamingDataLoader(Billion(), BATCH, shuffle=True, seed=seed, rank=3, world_size=WORLD)


def milliseconds(state: str, seed: int, expected: torch.Tensor) -> float:
    """Return the milliseconds to create a loader, load the state and read the first batch."""
    started = time.perf_counter()
    resumed = loader(seed)
    resumed.load_state_dict(state)
    batch = next(iter(resumed))
    taken = 1e3 * (time.perf_counter() - started)
    assert torch.equal(batch, expected)
    return taken


def main() -> None:
    """Run everything and print a table and one line of JSON."""
    arguments = report.options(__doc__, repeats=21).parse_args()
    before = loader(arguments.seed)
    before.load_state_dict({**before.state_dict(), "epoch": 2, "position": N // 2 // (BATCH * WORLD) * BATCH * WORLD})
    iterator = iter(before)
    next(iterator)
    state = json.dumps(before.state_dict())
    expected = next(iterator)
    found = [milliseconds(state, arguments.seed, expected) for _ in range(arguments.repeats)]
    figures = {"restored_ms": report.spread(found), "state_bytes": len(state)}
    rows = [["to the first batch, ms", *(figures["restored_ms"][key] for key in ("median", "min", "max"))]]  # type: ignore[index]
    report.table(f"A state of {len(state)} bytes, 10**9 samples", [["", "median", "min", "max"], *rows])
    report.emit("resume", figures, seed=arguments.seed)


if __name__ == "__main__":
    main()
