"""Small training runs with one fault each (`tests.fault_settings`), until it is repaired.

`Training` is such a run in a thread of this process. `started(fault)` runs it in processes of its own, one a rank,
whose metrics are served to an observer such as a Prometheus. A step is a sleep, as a trainer's
thread waits for its accelerator; objects come over HTTP from a `PacedStore`.

    python -m tests.faulty_runs slow-codec     prints its address, and runs until its input ends
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from torch import distributed

from streaming import start_metrics_server
from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from tests import planted
from tests.fault_settings import BATCH, FAULTS, HEALTHY, Fault, Setting
from tests.paced_store import PacedStore
from tests.planted import Pausing
from tests.relay import Relay

__all__ = ["WARM_UP_STEPS", "Account", "Process", "Training", "started"]

NAME: Final = "train"
"""Name of the data set in every metric."""

WARM_UP_STEPS: Final = 5
NBYTES: Final = 8_000
"""Bytes of a sample in the cache."""


@dataclass(frozen=True)
class Account:
    """Totals of a run at the end of a step, or between two steps, in seconds.

    Attributes:
        steps: number of steps.
        waited, busy: time of the trainer, as it sees it, in `next` and in between.
        collated: time that its collation took, without the planted pause: little, unless the machine is busy.
        found: the waits that the library reports, by stage.
        used: how long each resource was in use: "line", "decode", "collate".
    """

    steps: int = 0
    waited: float = 0.0
    busy: float = 0.0
    collated: float = 0.0
    found: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)

    def since(self, earlier: Account) -> Account:
        """Return the difference to an earlier account."""
        found = {name: seconds - earlier.found.get(name, 0.0) for name, seconds in self.found.items()}
        used = {name: seconds - earlier.used.get(name, 0.0) for name, seconds in self.used.items()}
        steps, busy = self.steps - earlier.steps, self.busy - earlier.busy
        return Account(
            steps, self.waited - earlier.waited, busy, self.collated - earlier.collated, found=found, used=used
        )

    def planted(self, resource: str) -> float:
        """Return how long the trainer had to wait for a resource that was always in use, in seconds.

        Collation runs in the trainer's own thread. What another resource does while the trainer is busy, or
        collates, is not waited for.
        """
        used = self.used[resource]
        return used if resource == "collate" else used - self.busy - self.used["collate"]

    def error(self, stage: str, resource: str) -> float:
        """Return the error of the library for this stage, as a share of all waits."""
        return abs(self.found[stage] - self.planted(resource)) / self.waited


class Training:
    """A run in a thread of this process, from `with` to its end.

    Args:
        setting: settings at the start.
        rank, world_size: rank of this process, and number of ranks.

    Attributes:
        account: account of all steps so far.
    """

    def __init__(self, setting: Setting, rank: int = 0, world_size: int = 1) -> None:
        self.account = Account()
        self._rank, self._world_size = rank, world_size
        self._setting = self._wanted = setting
        self._is_ended = False
        self._stepped = threading.Condition()
        self._failure: BaseException | None = None
        self._is_primary_up = True
        self._stack = contextlib.ExitStack()
        self._collate = Pausing("collate", setting.collate_s)
        self._thread = threading.Thread(target=self._main, name="trainer")

    def __enter__(self) -> Self:
        objects = _objects(self._setting)
        with contextlib.ExitStack() as stack:
            self._store = stack.enter_context(PacedStore(objects, self._setting.line_s))
            self._primary = stack.enter_context(Relay(self._store.url))
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ended = True
        self._thread.join()
        self._stack.close()
        planted.decode_takes(0.0)

    def change(self, setting: Setting) -> None:
        """Use another setting from the next step on, with another adapter if it needs one."""
        self._wanted = setting

    def await_steps(self, steps: int, timeout_s: float = 60.0) -> Account:
        """Return the account after `steps` steps in all.

        Raises:
            TimeoutError: if that takes longer.
            BaseException: what ended the run.
        """
        with self._stepped:
            is_there = self._stepped.wait_for(lambda: self.account.steps >= steps or self._failure, timeout_s)
        if self._failure is not None:
            raise self._failure
        if not is_there:
            raise TimeoutError(f"{self.account.steps} of {steps} steps in {timeout_s:g} s")
        return self.account

    def _main(self) -> None:
        try:
            while not self._is_over():
                self._setting = self._wanted
                planted.decode_takes(self._setting.decode_s)  # before a sample is read ahead
                with self._adapter() as adapter:
                    self._train(adapter)
        except BaseException as error:
            with self._stepped:
                self._failure = error
                self._stepped.notify_all()

    def _adapter(self) -> StreamingDatasetAdapter:
        setting = self._setting
        common = {"storage_options": {"index": "index.json"}, "type": "http"}
        mirrors = [{"name": "mirror", "path": self._store.url, **common}] if setting.has_mirror else []
        return StreamingDatasetAdapter(
            {"name": "primary", "path": self._primary.url, "mirrors": mirrors, **common},
            {"primary": "x"},
            cache_size_gb=setting.cache_share * setting.samples * NBYTES / 1e9,
            max_ttl_seconds=setting.ttl_s,
            prefetch_ahead=setting.ahead,
            decode_threads=1,
            compression_type="none",
            name=NAME,
        )

    def _train(self, adapter: StreamingDatasetAdapter) -> None:
        """Whole epochs, until the run is over or takes another adapter."""
        loader = StreamingDataLoader(adapter, BATCH, shuffle=True, collate_fn=self._collate, drop_last=True)
        found = dict.fromkeys(loader.stalls.wait_seconds, 0.0) | dict(self.account.found)
        while True:
            batches = iter(loader)
            requested = time.perf_counter()
            for _ in batches:
                got = time.perf_counter()
                self._apply()
                time.sleep(self._setting.step_s)
                is_over = self._is_over()
                self._note(got - requested, time.perf_counter() - got, found, loader)
                requested = time.perf_counter()
                if is_over or self._wanted.needs_another_adapter(self._setting):
                    return

    def _apply(self) -> None:
        """Apply the settings that may change during a run: the primary dies after the first step."""
        wanted, was = self._wanted, self._setting
        if wanted.needs_another_adapter(was):
            return
        self._setting = wanted
        is_slow = wanted.line_rank in (None, self._rank)
        self._store.seconds = wanted.line_s if is_slow else HEALTHY.line_s
        self._collate.seconds = wanted.collate_s
        planted.decode_takes(wanted.decode_s)
        if wanted.is_primary_up != self._is_primary_up:
            self._is_primary_up = wanted.is_primary_up
            (self._primary.revive if self._is_primary_up else self._primary.kill)()

    def _is_over(self) -> bool:
        """Whether any rank is to end; all ranks meet here, as at the gradients."""
        if self._world_size == 1:
            return self._is_ended
        flag = torch.tensor(int(self._is_ended))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def _note(self, waited: float, busy: float, found: Mapping[str, float], loader: StreamingDataLoader) -> None:
        total = {stage: found[stage] + seconds for stage, seconds in loader.stalls.wait_seconds.items()}
        used = {stage: sum(planted.SECONDS[stage]) for stage in ("decode", "collate")} | {"line": self._store.sent_s}
        was = self.account
        with self._stepped:
            collated = sum(planted.SECONDS["collation"])
            self.account = Account(
                was.steps + 1, was.waited + waited, was.busy + busy, collated, found=total, used=used
            )
            self._stepped.notify_all()


def _objects(setting: Setting) -> dict[str, bytes]:
    """Return objects of noise, which no compression makes smaller."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 256, NBYTES, dtype=np.uint8))
    return dict.fromkeys((f"{number:05d}{setting.suffix}" for number in range(setting.samples)), file.getvalue())


# -- runs in processes of their own


@dataclass(frozen=True)
class Process:
    """One rank of a run, in a process.

    Attributes:
        fault: fault of the run.
        rank: rank of the process.
        address: `host:port` of its metrics.
        child: the process.
    """

    fault: Fault
    rank: int
    address: str
    child: subprocess.Popen[str]

    def await_steps(self, steps: int) -> Account:
        """Wait for `steps` more steps, and return the account since the last answer, or since the warm-up."""
        return self._send(str(steps))

    def repair(self) -> Account:
        """Remove the fault, and return the account since the last answer."""
        return self._send("repair")

    def _send(self, word: str) -> Account:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{word}\n")
        self.child.stdin.flush()
        return Account(**_answer(self.child))


@contextlib.contextmanager
def started(fault: Fault) -> Iterator[list[Process]]:
    """Start the ranks of a run with a fault, which lasts until the end of the `with` block."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        children = [stack.enter_context(_child(fault, rank, Path(folder) / "meeting")) for rank in range(fault.ranks)]
        yield [Process(fault, rank, _answer(child)["address"], child) for rank, child in enumerate(children)]


@contextlib.contextmanager
def _child(fault: Fault, rank: int, meeting: Path) -> Iterator[subprocess.Popen[str]]:
    places = {"RANK": str(rank), "WORLD_SIZE": str(fault.ranks), "MEETING": str(meeting), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faulty_runs", fault.name]
    root = Path(__file__).resolve().parents[1]
    pipe = subprocess.PIPE
    environment = {**os.environ, **places}
    with subprocess.Popen(command, cwd=root, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
        yield child  # it ends with its input, which is closed now


def _answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args!r} ended with exit status {child.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def main(name: str) -> None:
    """Run one rank, controlled by the lines of its input."""
    fault = FAULTS[name]
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        distributed.init_process_group("gloo", f"file://{os.environ['MEETING']}", rank=rank, world_size=world_size)
    with start_metrics_server(0) as server, Training(fault.setting, rank, world_size) as run:
        last = run.await_steps(WARM_UP_STEPS)
        _say({"address": f"127.0.0.1:{server.port}"})
        for word in map(str.strip, sys.stdin):
            account = run.await_steps(run.account.steps + int(word)) if word.isdecimal() else run.account
            _say(asdict(account.since(last)))
            last = account
            if word == "repair":
                run.change(fault.repaired)


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
