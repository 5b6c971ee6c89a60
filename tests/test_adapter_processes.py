"""One engine, many processes: workers of every start method, and what happens when one of them dies."""

import asyncio
import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.runtime import current_runtime
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ClosedError, ConfigError, EngineGoneError, ObjectNotFoundError, PrepareError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import Collector
from streaming.testing import Fault, FaultySource, MemorySource

COUNT = 24
METHODS = ["fork", "spawn", "forkserver"]


def _source(count=COUNT, nbytes=2000):
    """Objects in memory that count their reads: a pickled copy would have counts of its own."""
    source = MemorySource(DataSourceConfig("data", "memory", "memory://data"))
    for i in range(count):
        source.put(f"{i:03d}.bin", bytes([i]) * nbytes)
    return source


def _check(samples, nbytes=2000):
    for sample in samples:
        assert sample["data"] == bytes([sample["idx"]]) * nbytes


def _as_list(samples):
    return samples


def _stamp(sample):
    return {**sample, "pid": os.getpid()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_persistent", [True, False])
def test_workers_share_one_cache_and_one_load(method, is_persistent):
    """With every start method, and with persistent workers or not, each object is read once, by the engine."""
    source = _source()
    with StreamingDatasetAdapter(source, transform=_stamp) as adapter:
        loader = DataLoader(
            adapter,
            batch_size=4,
            num_workers=2,
            multiprocessing_context=method,
            persistent_workers=is_persistent,
            collate_fn=_as_list,
            sampler=adapter.look_ahead(range(COUNT)),
        )
        for _ in range(2):
            samples = [sample for batch in loader for sample in batch]
            assert [sample["idx"] for sample in samples] == list(range(COUNT))
            _check(samples)
            assert os.getpid() not in {sample["pid"] for sample in samples}
        assert set(source.reads.values()) == {1}
        stats = adapter.get_cache_stats()
        assert (stats["fetched_samples"], stats["total_hits"]) == (COUNT, COUNT)


def test_waits_of_workers_are_counted():
    """A worker's wait for a source counts like one of this process."""
    with StreamingDatasetAdapter(_source()) as adapter:
        for waits in (1, 1):  # the second epoch waits for nothing
            list(DataLoader(adapter, batch_size=COUNT, num_workers=1, collate_fn=_as_list))
            stats = adapter.get_cache_stats()
            assert stats["waits"] == waits
            assert stats["wait_seconds"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_workers_see_correct_samples_while_the_cache_evicts(method):
    """With a cache of a few samples and two workers, evicted places are noticed and never read as other samples."""
    nbytes = 20_000
    with StreamingDatasetAdapter(_source(nbytes=nbytes), cache_size_gb=1e-4) as adapter:
        loader = DataLoader(adapter, batch_size=6, num_workers=2, multiprocessing_context=method, collate_fn=_as_list)
        for _ in range(3):
            samples = [sample for batch in loader for sample in batch]
            assert [sample["idx"] for sample in samples] == list(range(COUNT))
            _check(samples, nbytes)
        assert adapter.get_cache_stats()["total_evictions"] > 0


def test_samples_larger_than_the_cache_reach_a_worker():
    """They do not fit into the arena and are sent over the link."""
    with StreamingDatasetAdapter(_source(nbytes=50_000), cache_size_gb=1e-5) as adapter:
        loader = DataLoader(adapter, batch_size=3, num_workers=1, multiprocessing_context="fork", collate_fn=_as_list)
        _check([sample for batch in loader for sample in batch], 50_000)
        assert adapter.get_cache_stats()["bypassed"] >= COUNT


class _Odd:
    """A leaf without a flat encoding."""

    def __init__(self, value):
        self.value = value


def _odd(sample):
    return {"odd": _Odd(sample["data"][0]), "idx": sample["idx"]}


@pytest.mark.filterwarnings("ignore:.*cannot be cached")
def test_samples_of_unknown_types_reach_a_worker():
    """They are served, uncached, and counted."""
    with StreamingDatasetAdapter(_source(), prepare=_odd) as adapter:
        loader = DataLoader(adapter, batch_size=8, num_workers=1, multiprocessing_context="fork", collate_fn=_as_list)
        samples = [sample for batch in loader for sample in batch]
        assert [sample["odd"].value for sample in samples] == list(range(COUNT))
        assert adapter.get_cache_stats()["uncacheable"] >= COUNT


def test_an_error_of_the_engine_is_raised_in_the_loader():
    """A worker's read fails with the error that names the object, once; the next read works."""
    gone = ObjectNotFoundError("003.bin is not there for once")
    with StreamingDatasetAdapter(FaultySource(_source(), [Fault(path="003.bin", error=gone)])) as adapter:
        loader = DataLoader(adapter, batch_size=4, num_workers=1, multiprocessing_context="fork", collate_fn=_as_list)
        with pytest.raises(FileNotFoundError, match=r"003\.bin"):
            list(loader)
        _check([sample for batch in loader for sample in batch])


def _kill_self(sample):
    if sample["idx"] == 5 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample


def test_a_killed_worker_leaves_the_engine_intact():
    """torch reports the dead worker; the adapter serves this process and new workers as before."""
    source = _source()
    with StreamingDatasetAdapter(source, transform=_kill_self) as adapter:
        loader = DataLoader(adapter, batch_size=4, num_workers=2, multiprocessing_context="fork", collate_fn=_as_list)
        with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
            list(loader)
        _check([adapter[i] for i in range(COUNT)])
        rest = DataLoader(
            adapter,
            batch_size=4,
            num_workers=2,
            multiprocessing_context="spawn",
            collate_fn=_as_list,
            sampler=[i for i in range(COUNT) if i != 5],
        )
        _check([sample for batch in rest for sample in batch])
        assert set(source.reads.values()) == {1}


def _read_in_child(adapter, connection):
    try:
        _check([adapter[i] for i in range(3)])
        connection.send("read")
        connection.recv()
        adapter[4]
    except BaseException as exc:
        connection.send(exc)
    else:
        connection.send("served")


@pytest.mark.parametrize("method", METHODS)
def test_a_child_learns_that_the_adapter_was_closed(method):
    """It gets an error with a next step and does not hang."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    with StreamingDatasetAdapter(_source()) as adapter:
        child = context.Process(target=_read_in_child, args=(adapter, theirs), daemon=True)
        child.start()
        assert ours.recv() == "read"
    ours.send("continue")
    assert isinstance(ours.recv(), EngineGoneError)
    child.join(30)
    assert child.exitcode == 0


def _read_in_grandchild(adapter, connection):
    context = multiprocessing.get_context("fork")
    grandchild = context.Process(target=_read_in_child, args=(adapter, connection))
    grandchild.start()
    _check([adapter[i] for i in range(COUNT)])
    grandchild.join(30)


def test_a_fork_of_a_worker_reads_through_the_same_engine():
    """Parent and child of one worker do not share a connection."""
    source = _source()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with StreamingDatasetAdapter(source) as adapter:
        child = context.Process(target=_read_in_grandchild, args=(adapter, theirs))
        child.start()
        assert ours.recv() == "read"
        ours.send("continue")
        assert ours.recv() == "served"
        child.join(30)
        assert set(source.reads.values()) == {1}


class _Lazy(torch.utils.data.Dataset):
    """Holds an adapter as bytes: it is first opened inside a worker, without an engine in the parent."""

    def __init__(self, data):
        self.data = data
        self.adapter = None

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        if self.adapter is None:
            self.adapter = pickle.loads(self.data)
        stats = self.adapter.get_cache_stats()
        return {**self.adapter[index], "gb": stats["max_size_gb"]}


def test_an_adapter_first_used_in_a_worker_has_its_own_engine(tmp_path):
    """It has its share of the budget: the workers together have the whole."""
    for i in range(COUNT):
        (tmp_path / f"{i:03d}.bin").write_bytes(bytes([i]) * 2000)
    with StreamingDatasetAdapter({"name": "data", "type": "local", "path": str(tmp_path)}, cache_size_gb=1) as adapter:
        data = pickle.dumps(adapter)
    loader = DataLoader(_Lazy(data), batch_size=4, num_workers=2, multiprocessing_context="fork", collate_fn=_as_list)
    samples = [sample for batch in loader for sample in batch]
    _check(samples)
    assert {sample["gb"] for sample in samples} == {0.5}


RUN = textwrap.dedent(
    """
    import json, os, sys
    import torch
    from streaming.adapter import StreamingDatasetAdapter
    from torch.utils.data import DataLoader

    def as_list(samples):
        return samples

    def main(root, owner, workers):
        adapter = StreamingDatasetAdapter({"name": "data", "type": "local", "path": root}, owner=owner)
        sampler = adapter.look_ahead(range(len(adapter)))
        loader = DataLoader(adapter, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=as_list)
        for step, batch in enumerate(loader):
            if step == 1:
                children = [int(c) for c in open(f"/proc/self/task/{os.getpid()}/children").read().split()]
                print(json.dumps({"pid": os.getpid(), "children": children}), flush=True)
                sys.stdin.readline()

    if __name__ == "__main__":
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    """
)


@pytest.mark.parametrize(("owner", "workers"), [("thread", 0), ("thread", 2), ("process", 2)])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_training_process_leaves_nothing_behind(tmp_path, how, owner, workers):
    """A kill in the middle of an epoch leaves no stray process, no shared memory, no file."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(COUNT):
        (data / f"{i:03d}.bin").write_bytes(bytes([i]) * 2000)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, str(script), str(data), owner, str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    state = json.loads(process.stdout.readline())
    assert len(state["children"]) == workers + (owner == "process")
    pidfds = [os.pidfd_open(child) for child in state["children"]]
    process.send_signal(how)
    process.communicate(timeout=60)
    for pidfd in pidfds:  # readable when the process has ended; torch's watchdog looks every five seconds
        poller = __import__("select").poll()
        poller.register(pidfd)
        assert poller.poll(30_000), "a child outlived its training process"
        os.close(pidfd)
    new = set(os.listdir("/dev/shm")) - before
    assert not [name for name in new if str(process.pid) in re.findall(r"\d+", name)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run.py"]


class _OwnError(Exception):
    """An error that cannot be made from its text."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class _Unsendable(_Odd):
    def __reduce__(self):
        raise _OwnError(5, "stays here")


def _refuse(sample):
    if sample["idx"] == 1:
        raise _OwnError(7, "refused")
    if sample["idx"] == 2:
        return {"odd": _Unsendable(0)}
    if sample["idx"] == 3:
        return {"odd": _Odd(_unloadable)}
    return sample


def _unloadable():
    """An error whose class is removed from the module in the process that reads."""


def _errors_of(adapter, indices):
    found = []
    for index in indices:
        try:
            adapter[index]
        except Exception as exc:
            found.append(exc)
    return found


def _tell_errors(adapter, connection):
    del globals()["_unloadable"]
    for error in _errors_of(adapter, [1, 2, 3, 4]):
        connection.send((type(error), str(error), error.path, error.source, repr(error.__cause__)))
    _check([adapter[0]])
    connection.send(None)


@pytest.mark.filterwarnings("ignore:.*cannot be cached")
def test_errors_reach_another_process_as_themselves():
    """Type, sample, cause and attributes survive, and the library continues to serve."""
    gone = ObjectNotFoundError("004.bin is not there", path="004.bin", source="data")
    source = FaultySource(_source(), [Fault(path="004.bin", error=gone)])
    ours, theirs = multiprocessing.Pipe()
    with StreamingDatasetAdapter(source, prepare=_refuse) as adapter:
        child = multiprocessing.get_context("fork").Process(target=_tell_errors, args=(adapter, theirs))
        child.start()
        theirs.close()
        results = list(iter(ours.recv, None))
        child.join(30)
        assert [(kind, path) for kind, _, path, *_ in results] == [
            (PrepareError, "001"),
            (PrepareError, "002"),
            (PrepareError, "003"),
            (ObjectNotFoundError, "004.bin"),
        ]
        assert [source for *_, source, _ in results] == [None, None, None, "data"]
        for (_, text, _, _, cause), number, why in zip(
            results[:3], "123", ("_OwnError", "Uncopyable", "AttributeError"), strict=True
        ):
            assert f"sample {number}" in text
            assert why in cause
        assert "['odd']" in results[1][1]
        _check([adapter[0]])


def test_attributes_survive_torchs_way_out_of_a_worker():
    """torch makes the error again from the text of its traceback."""
    gone = ObjectNotFoundError("003.bin is not there for once", path="003.bin", source="data")
    gone.status = 404
    with StreamingDatasetAdapter(FaultySource(_source(), [Fault(path="003.bin", error=gone)])) as adapter:
        loader = DataLoader(adapter, batch_size=4, num_workers=1, multiprocessing_context="fork", collate_fn=_as_list)
        with pytest.raises(ObjectNotFoundError) as error:
            list(loader)
        assert (error.value.path, error.value.source, error.value.status) == ("003.bin", "data", 404)


class _Kept:
    """A user's collate function that saves its samples."""

    def __call__(self, samples):
        saved = []
        for sample in samples:
            buffer = io.BytesIO()
            torch.save(sample, buffer)
            saved.append(
                torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)["data"].untyped_storage().nbytes()
            )
        return samples, saved


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_given_to_a_users_function_have_their_own_memory(tmp_path, workers):
    """A row that is kept or saved is separate from the batch it was read with, in the worker and after it."""
    for i in range(COUNT):
        torch.save(torch.full((12,), i), tmp_path / f"{i:03d}.pt")
    with StreamingDatasetAdapter({"name": "data", "type": "local", "path": str(tmp_path)}) as adapter:
        adapter.prefetch_batch(range(COUNT)).result(30)
        loader = DataLoader(
            adapter,
            8,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            collate_fn=_Kept(),
        )
        for samples, saved in loader:
            assert saved == [96] * 8
            assert {sample["data"].untyped_storage().nbytes() for sample in samples} == {96}
            assert all((sample["data"] == sample["idx"]).all() for sample in samples)


# -- trainer ranks that got the adapter from their parent


def _fail_at_three(sample):
    if sample["idx"] == 3:
        raise ValueError("no such luck")
    return sample


def _loader(adapter, rank, workers):
    return StreamingDataLoader(
        adapter,
        2,
        shuffle=True,
        rank=rank,
        world_size=2,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        collate_fn=_as_list,
    )


def _train(rank, adapter, workers, folder):
    """Two passes of one rank."""
    loader = _loader(adapter, rank, workers)
    passes = [[sample for batch in loader for sample in batch] for _ in range(2)]
    for samples in passes:
        _check(samples)
    results = {"passes": [[sample["idx"] for sample in samples] for samples in passes], "state": loader.state_dict()}
    (folder / f"{rank}.json").write_text(json.dumps(results))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_ranks_share_the_adapter_of_their_parent(tmp_path, method, workers):
    """Each sample is read once by one of them and fetched once by the parent; the run's fingerprint is the parent's."""
    source = _source()
    with StreamingDatasetAdapter(source) as adapter:
        start_processes(_train, (adapter, workers, tmp_path), nprocs=2, start_method=method)
        results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        for number in range(2):
            assert sorted(results[0]["passes"][number] + results[1]["passes"][number]) == list(range(COUNT))
        assert {each["state"]["fingerprint"] for each in results} == {adapter.fingerprint}
        assert set(source.reads.values()) == {1}
        stats = adapter.get_cache_stats()
        assert (stats["fetched_samples"], stats["total_hits"]) == (COUNT, COUNT)


def _use_everything(rank, adapter, folder):
    """Make a trainer's other calls; each number is that of the parent's engine."""
    stats = adapter.get_cache_stats()
    assert stats["max_size_gb"] == 1.5  # not divided
    assert len(adapter) == len(adapter.index) == COUNT
    assert adapter.fingerprint == adapter.index.fingerprint
    adapter.prefetch_batch([4, 5]).result(30)
    assert adapter.get_cache_stats()["fetched_samples"] == 2
    assert adapter.metrics_snapshot()["cache_entries"] == {(): 2}
    _check(adapter.__getitems__([4, 5]))
    assert adapter.reads == 2
    adapter.reset_metrics()
    assert adapter.reads == 0
    adapter.clear_cache()
    assert adapter.get_cache_stats()["num_items"] == 0
    with pytest.raises(PrepareError, match=r"sample 3 \('003'\)"):
        adapter[3]
    with pytest.raises(ConfigError, match=r"adapter\.cache"):
        _ = adapter.cache
    assert "reads" not in Collector().read()  # the parent's metrics have them
    sampler = adapter.look_ahead(range(COUNT))
    _check([adapter[i] for i in sampler if i != 3])
    adapter.stop_prefetch_worker()
    adapter.close()
    with pytest.raises(ClosedError):
        adapter[0]
    (folder / "done").touch()


@pytest.mark.parametrize(("method", "owner"), [("fork", "thread"), ("spawn", "thread"), ("fork", "process")])
def test_everything_works_in_a_rank(tmp_path, method, owner):
    """Reading ahead, numbers, index and cache: calls in a rank reach the engine, which has the whole budget."""
    for i in range(COUNT):
        (tmp_path / f"{i:03d}.bin").write_bytes(bytes([i]) * 2000)
    source = {"name": "data", "type": "local", "path": str(tmp_path)}
    with StreamingDatasetAdapter(source, transform=_fail_at_three, cache_size_gb=1.5, owner=owner) as adapter:
        folder = tmp_path.parent / f"{tmp_path.name}-results"
        folder.mkdir()
        start_processes(_use_everything, (adapter, folder), nprocs=1, start_method=method)
        assert (folder / "done").exists()
        _check([adapter[0]])


def _announce_and_wait(rank, adapter, connection):
    adapter.announce(range(COUNT), connection)
    adapter.announce(range(COUNT - 1, -1, -1), adapter)
    adapter[0]
    connection.send("announced")
    connection.recv()


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_announcements_of_an_ended_rank_are_forgotten(how):
    """Nothing is read ahead or reserved for a rank that is gone; the orders of others stay."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with StreamingDatasetAdapter(_source(), prefetch_ahead=2) as adapter:
        mine = object()
        adapter.announce([7, 8, 9], mine)
        rank = context.Process(target=_announce_and_wait, args=(0, adapter, theirs))
        rank.start()
        assert ours.recv() == "announced"
        assert adapter.metrics_snapshot()["prefetch_queued_samples"][()] > COUNT
        if how == "it is killed":
            rank.kill()
        else:
            ours.send("continue")
        rank.join(30)
        current_runtime().run(_settle())
        reading = adapter.metrics_snapshot()
        assert reading["prefetch_queued_samples"][()] == 1
        assert reading["prefetch_buffered_samples"][()] <= 2
        adapter.forget(mine)
        current_runtime().run(_settle())
        assert adapter.metrics_snapshot()["prefetch_queued_samples"][()] == 0


async def _settle():
    """Let every due callback run."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_an_order_is_not_taken_for_one_that_died():
    """Orders are distinct even if Python reuses the memory of one for the next."""
    with StreamingDatasetAdapter(_source(), prefetch_ahead=1) as adapter:
        for first in range(0, COUNT, 4):
            adapter.announce(range(first, first + 4), type("Order", (), {})())
        newest = object()
        adapter.announce([0], newest)
        adapter.forget(newest)
        current_runtime().run(_settle())
        assert adapter.metrics_snapshot()["prefetch_queued_samples"][()] == COUNT - COUNT // 4
