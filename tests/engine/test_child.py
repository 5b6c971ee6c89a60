"""The engine in a child process: the adapter behaves the same, and either process may end first."""

import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.epoch_index import EpochIndex
from streaming.core.runtime import current_runtime
from streaming.errors import (
    ClosedError,
    ConfigError,
    DecodeError,
    EngineGoneError,
    MissingPart,
    ObjectNotFoundError,
    PrepareError,
    SourceUnavailable,
)
from streaming.testing import FaultySource, MemorySource

COUNT = 12
NBYTES = 2000
METHODS = ["fork", "spawn", "forkserver"]
TIMEOUT_MS = 30_000


def _write(root, count=COUNT):
    root.mkdir()
    for i in range(count):
        (root / f"{i:03d}.bin").write_bytes(bytes([i]) * NBYTES)
    return {"name": "data", "type": "local", "path": str(root)}


@pytest.fixture
def source(tmp_path):
    """A folder of objects."""
    return _write(tmp_path / "data")


def _open(source, **options):
    return StreamingDatasetAdapter(source, owner="process", **options)


def _check(samples):
    for sample in samples:
        assert sample["data"] == bytes([sample["idx"]]) * NBYTES


def _as_list(samples):
    return samples


def _stamp(sample):
    return {**sample, "reader": os.getpid()}


def _shift(sample, generator):
    return {**sample, "noise": torch.rand((), generator=generator).item()}


def _fail(sample):
    raise ValueError("no such luck")


def _wait_at_gate(sample):
    """Blocks in the child process until the pipe that the object names was opened, written to and closed."""
    if sample["data"].startswith(b"/"):
        with open(sample["data"].decode()) as gate:
            gate.read()
    return {**sample, "reader": os.getpid()}


def _make_gate(tmp_path, i):
    """Let reads of object `i` block; opening the result for writing waits until one does."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "data" / f"{i:03d}.bin").write_bytes(os.fsencode(gate))
    return gate


def _has_ended(pidfd):
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        return bool(poller.poll(TIMEOUT_MS))
    finally:
        os.close(pidfd)


def _is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- the contract of the adapter


def test_samples_are_the_same_as_with_a_thread(tmp_path):
    """Tensors and positions are equal, one by one and in batches, and each read returns the caller's own copy."""
    for i in range(COUNT):
        torch.save({"x": torch.full((3, 4), i), "name": f"n{i}"}, tmp_path / f"{i:03d}.pt")
    with _open(str(tmp_path)) as remote, StreamingDatasetAdapter(str(tmp_path)) as local:
        assert len(remote) == len(local) == COUNT
        assert remote.fingerprint == local.fingerprint
        key = next(key for key in local[0] if key != "idx")
        together = remote.__getitems__(range(COUNT))
        for i in range(-1, COUNT):
            mine, theirs = remote[i], local[i]
            assert mine["idx"] == theirs["idx"]
            assert mine[key]["name"] == theirs[key]["name"]
            assert torch.equal(mine[key]["x"], theirs[key]["x"])
            assert torch.equal(together[i][key]["x"], theirs[key]["x"])
            mine[key]["x"].zero_()
            assert torch.equal(remote[i][key]["x"], theirs[key]["x"])
        with pytest.raises(IndexError):
            remote[COUNT]


def test_calls_reach_the_other_process(source):
    """Counts, clearing, reading ahead on demand and the index work as they do with a thread."""
    with _open(source) as adapter, StreamingDatasetAdapter(source) as local:
        adapter.prefetch_batch([0, 1, 2]).result(30)
        stats = adapter.get_cache_stats()
        assert (stats["num_items"], stats["fetched_samples"]) == (3, 3)
        assert stats.keys() == local.get_cache_stats().keys()
        _check(adapter.__getitems__([0, 1, 2]))
        assert adapter.get_cache_stats()["total_hits"] == 0
        adapter.reset_metrics()
        _check(adapter.__getitems__([0, 1, 2]))
        assert adapter.get_cache_stats()["total_hits"] == 3
        adapter.clear_cache()
        assert adapter.get_cache_stats()["num_items"] == 0
        assert [adapter.index.name(i) for i in range(COUNT)] == [local.index.name(i) for i in range(COUNT)]
        with pytest.raises(ConfigError, match=r"adapter\.cache .* owner='thread'"):
            _ = adapter.cache


def test_the_index_is_a_mapping_of_the_saved_file(source, tmp_path):
    """With `index_path` the child saves the index, and this process opens the file."""
    path = tmp_path / "data.index"
    with _open(source, index_path=path) as adapter:
        assert str(path) in repr(adapter.index)
        assert len(adapter.index) == COUNT


def test_transform_gets_the_generator_of_the_epoch(source):
    """`transform` runs here, with the seed of (seed, draw, position), as it does with a thread."""
    with (
        _open(source, transform=_shift, seed=7) as remote,
        StreamingDatasetAdapter(source, transform=_shift, seed=7) as local,
    ):
        epochs = [range(COUNT), range(COUNT), [EpochIndex(index, 1) for index in range(COUNT)]]
        seen = [[sample["noise"] for sample in remote.__getitems__(epoch)] for epoch in epochs]
        assert seen == [[local[index]["noise"] for index in epoch] for epoch in epochs]
        assert seen[0] != seen[1]
        assert seen[1] == seen[2]


def test_announced_samples_are_read_ahead(source, tmp_path):
    """The child follows the order that `look_ahead` announces, unless it is forgotten or reading ahead stops."""
    gate = _make_gate(tmp_path, 5)
    with _open(source, prepare=_wait_at_gate) as adapter:
        batches = iter(adapter.look_ahead([[0, 1, 2], [3, 4, 5]]))
        first = next(batches)
        gate.write_text("continue")  # returns once the child reads sample 5
        assert [sample["idx"] for sample in adapter.__getitems__(first)] == [0, 1, 2]
        assert [sample["idx"] for sample in adapter.__getitems__(next(batches))] == [3, 4, 5]
        batches.close()
        adapter.forget(batches)
        adapter.stop_prefetch_worker()
        adapter.announce(range(COUNT), adapter)
        adapter.prefetch_batch([11])
        assert adapter.get_cache_stats()["fetched_samples"] == 6


@pytest.mark.parametrize("method", [None, *METHODS])
def test_workers_read_through_the_same_child(source, method):
    """However workers start, each object is read once, in the one child."""
    with _open(source, prepare=_stamp) as adapter:
        loader = DataLoader(
            adapter,
            batch_size=3,
            num_workers=2 if method else 0,
            multiprocessing_context=method,
            collate_fn=_as_list,
            sampler=adapter.look_ahead(range(COUNT)),
        )
        for _ in range(2):
            samples = [sample for batch in loader for sample in batch]
            assert [sample["idx"] for sample in samples] == list(range(COUNT))
            _check(samples)
            assert {sample["reader"] for sample in samples} == {adapter[0]["reader"]} != {os.getpid()}
        assert adapter.get_cache_stats()["fetched_samples"] == COUNT


def test_samples_larger_than_the_cache_are_sent(source):
    """They do not fit into the arena and come over the link."""
    with _open(source, cache_size_gb=1e-6) as adapter:
        _check(adapter.__getitems__(range(COUNT)))
        assert adapter.get_cache_stats()["bypassed"] >= COUNT


def test_threads_do_not_wait_for_each_other(source, tmp_path):
    """A blocked read does not block another thread."""
    gate = _make_gate(tmp_path, 4)
    with _open(source, prepare=_wait_at_gate) as adapter, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(adapter.__getitem__, 4)
        with open(gate, "w"):
            _check(adapter.__getitems__([1, 2, 3]))
            assert not slow.done()
        assert slow.result(30)["idx"] == 4


def test_a_pickled_copy_has_a_child_of_its_own(source):
    """A pickle is the configuration, including `owner`."""
    with _open(source, prepare=_stamp) as adapter, pickle.loads(pickle.dumps(adapter)) as copy:
        readers = {adapter[0]["reader"], copy[0]["reader"], os.getpid()}
        assert len(readers) == 3


def test_from_config_accepts_the_owner(source):
    """The setting has the same name in a configuration, and an unknown value is refused."""
    with StreamingDatasetAdapter.from_config({"sources": [source], "owner": "process"}) as adapter:
        _check([adapter[1]])
    with pytest.raises(ConfigError, match="owner='fibre'"):
        StreamingDatasetAdapter(source, owner="fibre")


# -- errors


def test_errors_of_reads_are_the_same_as_with_a_thread(source, tmp_path):
    """A missing and a damaged object, and a failing `prepare`, raise their own exceptions here."""
    (tmp_path / "data" / "damaged.pt").write_bytes(b"PK\x03\x04 and no more")
    with _open(source) as adapter:
        os.unlink(tmp_path / "data" / "003.bin")
        with pytest.raises(ObjectNotFoundError, match=r"003\.bin") as error:
            adapter[3]
        assert (error.value.path, error.value.source) == ("003.bin", "data")
        with pytest.raises(DecodeError, match=r"damaged\.pt"):
            adapter.__getitems__([0, 1, COUNT])
        _check([adapter[2]])
    with _open(source, prepare=_fail) as adapter, pytest.raises(PrepareError, match="no such luck"):
        adapter[0]


def test_errors_of_opening_are_raised_here(source, tmp_path):
    """The constructor raises the error that the child met at its start, as the same class."""
    with pytest.raises(ObjectNotFoundError, match="nowhere"):
        _open(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="labels"):
        _open(source, data_mapping=["data", "labels"])
    other = _write(tmp_path / "other", COUNT - 1)
    with pytest.raises(MissingPart, match="011"):
        _open([source, {**other, "name": "other"}])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(SourceUnavailable):
            _open(url, resilience={"listing_attempts": 1})


class _Deadly:
    """Ends the process that loads it."""

    def __call__(self, sample):
        return sample

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_child_that_ends_at_its_start_is_an_error(source):
    """The constructor does not hang: the error says what ended the child, and the next step."""
    with pytest.raises(EngineGoneError, match=r"SIGKILL.*memory.*stderr"):
        _open(source, prepare=_Deadly())


def _defined_elsewhere(name):
    """A function of a module that only this process has."""
    module = types.ModuleType(name)
    exec("def prepare(sample): return sample", module.__dict__)
    sys.modules[name] = module
    return module.prepare


def test_what_cannot_be_sent_is_refused_by_name(source):
    """A lambda, a function of the script, a function of a module that the child lacks, objects in memory."""
    with pytest.raises(ConfigError, match=r"prepare=.*lambda.*owner='thread'"):
        _open(source, prepare=lambda sample: sample)
    with pytest.raises(ConfigError, match=r"prepare=prepare cannot be loaded .*only_here.*owner='thread'"):
        _open(source, prepare=_defined_elsewhere("only_here"))
    of_script = _defined_elsewhere("script")
    of_script.__module__ = "__main__"
    with pytest.raises(ConfigError, match=r"prepare=prepare .*defined in the script"):
        _open(source, prepare=of_script)
    memory = MemorySource("mine", {"0.bin": b"0"})
    for each in (memory, FaultySource(memory, [])):
        with pytest.raises(ConfigError, match=r"source 'mine' .*memory of this process"):
            _open(each)


# -- the end


def test_closing_leaves_nothing(source):
    """After close, no process, descriptor or mapping is left, closing again is fine, and every use raises an error."""
    current_runtime()
    gc.collect()  # what earlier tests left behind

    def held():
        fds = {
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and _open_fd(fd)
        }
        with open("/proc/self/maps") as maps:
            return {name for name in fds if "socket" in name or "memfd" in name}, maps.read().count("streaming-cache")

    def _open_fd(fd):
        return os.path.lexists(f"/proc/self/fd/{fd}")

    before = held()
    adapter = _open(source, prepare=_stamp)
    reader = adapter[0]["reader"]
    adapter.prefetch_batch([1]).result(30)
    list(DataLoader(adapter, batch_size=4, num_workers=1, multiprocessing_context="fork", collate_fn=_as_list))
    assert held() != before
    adapter.close()
    adapter.close()
    gc.collect()
    assert not _is_there(reader)
    assert held()[0] <= before[0]
    assert held()[1] <= before[1]
    for use in (lambda: adapter[0], lambda: len(adapter), adapter.get_cache_stats):
        with pytest.raises(ClosedError, match="closed"):
            use()


def test_a_dropped_adapter_ends_its_child(source):
    """Garbage collection of the adapter closes it."""
    adapter = _open(source, prepare=_stamp)
    reader = adapter[0]["reader"]
    del adapter
    gc.collect()
    assert not _is_there(reader)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_child_is_an_error_for_every_reader(source, tmp_path, how):
    """Reads in flight, later ones, and those of workers raise; reading ahead and closing do not hang either."""
    gate = _make_gate(tmp_path, 4)
    with _open(source, prepare=_wait_at_gate) as adapter, ThreadPoolExecutor(1) as pool:
        workers = iter(
            DataLoader(
                adapter,
                batch_size=1,
                num_workers=1,
                multiprocessing_context="fork",
                collate_fn=_as_list,
                prefetch_factor=1,
                sampler=[0, 1, 2, 3],
            )
        )
        reader = next(workers)[0]["reader"]
        slow = pool.submit(adapter.__getitem__, 4)
        with open(gate, "w"):
            os.kill(reader, how)
            with pytest.raises(EngineGoneError, match=f"{reader}.*{how.name}.*new adapter"):
                slow.result(30)
        with pytest.raises(EngineGoneError, match="new adapter"):
            adapter[0]
        with pytest.raises(EngineGoneError, match="training process"):
            list(workers)
        with pytest.raises(EngineGoneError, match="new adapter"):
            adapter.prefetch_batch([0]).result(30)
        with pytest.raises(EngineGoneError, match="new adapter"):
            adapter.get_cache_stats()
        adapter.forget(adapter)


def test_closing_does_not_wait_for_a_blocked_read(source, tmp_path):
    """The child has two seconds to end in order, and the thread that reads gets an error."""
    gate = _make_gate(tmp_path, 4)
    with ThreadPoolExecutor(1) as pool:
        with _open(source, prepare=_wait_at_gate) as adapter:
            reader = adapter[0]["reader"]
            slow = pool.submit(adapter.__getitem__, 4)
            writing = open(gate, "w")
        assert not _is_there(reader)
        with pytest.raises((ClosedError, EngineGoneError)):
            slow.result(30)
        writing.close()


def test_closing_ends_a_child_that_is_stopped(source):
    """A child that cannot end on its own is killed."""
    with _open(source, prepare=_stamp) as adapter:
        reader = adapter[0]["reader"]
        os.kill(reader, signal.SIGSTOP)
    assert not _is_there(reader)


RUN = textwrap.dedent(
    """
    import os, sys
    from streaming.adapter import StreamingDatasetAdapter

    def wait():
        print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
        return sys.stdin.readline()

    adapter = StreamingDatasetAdapter(sys.argv[1], owner="process")
    adapter[0]
    try:
        wait()
    except KeyboardInterrupt:
        adapter[1]
        print("served", flush=True)
    """
)


def _run(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _child_of(process):
    [child] = process.stdout.readline().split()
    return os.pidfd_open(int(child))


@pytest.mark.parametrize(
    ("how", "code"), [(None, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_child_ends_with_its_parent(source, how, code):
    """It ends silently when the script ends without closing, and when the script is killed in any way."""
    with _run(RUN, source["path"]) as process:
        child = _child_of(process)
        if how is not None:
            process.send_signal(how)
        _, errors = process.communicate("continue\n" if how is None else None, timeout=60)
        assert (process.returncode, errors) == (code, "")
        assert _has_ended(child)


def test_an_interrupt_of_the_group_is_left_to_the_trainer(source):
    """Ctrl-C reaches both processes: the child continues to serve until the trainer ends."""
    with _run(RUN, source["path"]) as process:
        child = _child_of(process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "served\n"
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert _has_ended(child)


OPEN = textwrap.dedent(
    """
    import sys
    from streaming.adapter import StreamingDatasetAdapter

    StreamingDatasetAdapter(sys.argv[1], owner="process")
    """
)


def test_a_child_that_is_still_opening_ends_with_its_parent():
    """A source that never answers its listing does not keep the child alive."""
    with socket.create_server(("127.0.0.1", 0)) as silent, _run(OPEN, f"http://{_address(silent)}/") as process:
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection, open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            child = os.pidfd_open(int(children.read()))
            process.kill()
            process.communicate(timeout=60)
            assert _has_ended(child)


def test_an_interrupted_opening_leaves_no_child():
    """After Ctrl-C while the child lists, the trainer ends, and the child with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent, _run(OPEN, f"http://{_address(silent)}/") as process:
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection, open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            child = os.pidfd_open(int(children.read()))
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert "KeyboardInterrupt" in errors
            assert _has_ended(child)


def _address(server):
    host, port = server.getsockname()
    return f"{host}:{port}"


FORK = textwrap.dedent(
    """
    import os, sys
    from streaming.adapter import StreamingDatasetAdapter

    adapter = StreamingDatasetAdapter(sys.argv[1], owner="process")
    if os.fork() == 0:
        adapter[1]
        adapter.close()
    else:
        adapter[2]
        print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
    sys.stdin.read()
    """
)


def test_a_fork_neither_ends_the_child_nor_keeps_it_alive(source):
    """The fork reads and closes on its own. When the trainer is killed, the fork may live, and the child ends."""
    with _run(FORK, source["path"]) as process:
        child, fork = (os.pidfd_open(int(pid)) for pid in process.stdout.readline().split())
        process.kill()
        assert _has_ended(child)
        process.stdin.close()
        assert _has_ended(fork)
        assert process.stderr.read() == ""


def test_reads_of_many_threads_are_right(source):
    """Threads whose first reads are concurrent get the right samples."""
    with _open(source) as adapter:
        barrier = threading.Barrier(6)

        def read(first):
            barrier.wait()
            return [adapter[(first + i) % COUNT] for i in range(3 * COUNT)]

        with ThreadPoolExecutor(6) as pool:
            for samples in pool.map(read, range(6)):
                _check(samples)
