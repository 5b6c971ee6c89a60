"""The link between the engine's process and its workers."""

import asyncio
import multiprocessing
import os
import pickle
import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from streaming.core.runtime import Runtime
from streaming.errors import EngineGoneError
from streaming.link.messages import LinkClient, LinkHandle, LinkServer


@pytest.fixture
def runtime():
    """A runtime of its own, ended with the test."""
    runtime = Runtime()
    yield runtime
    runtime.close()


@pytest.fixture
def server(runtime):
    """A server that replies with the request and its own pid."""

    async def answer(request):
        await asyncio.sleep(0)
        return [request, os.getpid()]

    server = LinkServer(runtime, answer)
    yield server
    runtime.run(server.aclose())


@pytest.fixture
def arena_fd():
    """A descriptor in place of the arena's."""
    fd = os.open(os.devnull, os.O_RDONLY)
    yield fd
    os.close(fd)


def _ask(handle, connection):
    client = LinkClient(handle.hello_fd)
    for request in iter(connection.recv, None):
        try:
            connection.send(client.request(request))
        except EngineGoneError as exc:
            connection.send(exc)
    client.close()


def _start(method, handle):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_ask, args=(handle, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_every_start_method_reach_the_server(server, arena_fd, method):
    """Requests get the server's reply; the end of the child closes the link."""
    process, pipe = _start(method, LinkHandle(server.hello_fd, arena_fd))
    big = list(range(100_000))
    for request in ([1, 2], big):
        pipe.send(request)
        assert pipe.recv() == [request, os.getpid()]
    pipe.send(None)
    process.join(30)
    assert process.exitcode == 0


def test_a_killed_worker_leaves_the_others_served(server, arena_fd):
    """The kernel closes the link of the dead worker and no other."""
    handle = LinkHandle(server.hello_fd, arena_fd)
    (first, first_pipe), (second, second_pipe) = _start("fork", handle), _start("fork", handle)
    for pipe in (first_pipe, second_pipe):
        pipe.send("x")
        assert pipe.recv()[0] == "x"
    os.kill(first.pid, signal.SIGKILL)
    first.join(30)
    second_pipe.send("y")
    assert second_pipe.recv()[0] == "y"
    second_pipe.send(None)
    second.join(30)


def test_a_worker_sees_the_end_of_the_server(runtime, server, arena_fd):
    """After the server closed, a request raises an error with a next step and does not hang."""
    process, pipe = _start("spawn", LinkHandle(server.hello_fd, arena_fd))
    pipe.send("x")
    pipe.recv()
    runtime.run(server.aclose())
    pipe.send("y")
    error = pipe.recv()
    assert isinstance(error, EngineGoneError)
    assert "start again" in str(error)
    pipe.send(None)
    process.join(30)


def test_concurrent_threads_do_not_wait_for_each_other(runtime):
    """Each has its own connection, which the next request reuses, and gets its own reply."""
    gate = asyncio.Event()

    async def answer(request):
        if request == "slow":
            await gate.wait()
        elif request == "open":
            gate.set()
        return request

    server = LinkServer(runtime, answer)
    client = LinkClient(server.hello_fd)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.request, "slow")
        for request in ("first", "second", "open"):
            assert client.request(request) == request
        assert slow.result(30) == "slow"
    assert [client.request(number) for number in range(8)] == list(range(8))
    assert server.workers <= 2
    client.close()
    assert client.request("again") == "again"
    client.close()
    runtime.run(server.aclose())


async def test_a_request_can_be_awaited(runtime, server):
    """It works on any loop, with the errors of a blocking request."""
    client = LinkClient(server.hello_fd)
    assert await client.request_async([1, 2]) == [[1, 2], os.getpid()]
    await asyncio.wrap_future(runtime.submit(server.aclose()))
    with pytest.raises(EngineGoneError, match="start again"):
        await client.request_async("x")


def test_a_descriptor_that_is_not_a_link_is_refused(arena_fd):
    """The error has a next step, and a link cannot be pickled on its own."""
    client = LinkClient(arena_fd)
    with pytest.raises(EngineGoneError):
        client.request("x")
    with pytest.raises(TypeError):
        pickle.dumps(client)


class _Odd(Exception):
    def __init__(self, code, where):
        super().__init__(f"{code} at {where}")
        self.code = code


@pytest.fixture
def failing(runtime):
    """A server that fails if the request says so, and serves everything else."""

    async def answer(request):
        match request:
            case "raise":
                raise _Odd(7, "home") from KeyError("cause")
            case "key":
                raise KeyError("missing")
            case "os":
                raise FileNotFoundError(2, "no such file", "a.bin")
            case "unmarshallable":
                return object()
            case "cancelled":
                raise asyncio.CancelledError
        return request

    server = LinkServer(runtime, answer)
    yield server
    runtime.run(server.aclose())


CASES = [
    ("raise", _Odd, "7 at home"),
    ("key", KeyError, "missing"),
    ("os", FileNotFoundError, "a.bin"),
    ("unmarshallable", ValueError, "unmarshallable"),
    ("cancelled", RuntimeError, "CancelledError"),
    (object(), ValueError, "unmarshallable"),
]


@pytest.mark.parametrize(("request_", "kind", "text"), CASES, ids=[kind.__name__ for _, kind, _ in CASES])
async def test_a_failed_request_raises_its_own_error_and_the_link_stays_open(failing, request_, kind, text):
    """This client and others are still served, on the same connection."""
    client, other = LinkClient(failing.hello_fd), LinkClient(failing.hello_fd)
    assert [client.request("a"), other.request("b")] == ["a", "b"]
    for _ in range(2):
        with pytest.raises(kind, match=text) as error:
            client.request(request_)
        assert type(error.value) is kind
        with pytest.raises(kind, match=text):
            await client.request_async(request_)
    if kind is _Odd:
        assert (error.value.code, type(error.value.__cause__)) == (7, KeyError)
    assert [client.request("a"), other.request("b")] == ["a", "b"]
    client.close()
    other.close()


def test_a_worker_without_descriptors_gets_its_own_error(server):
    """The error is the worker's own, not `EngineGoneError`."""
    client = LinkClient(server.hello_fd)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as error:
            client.request("x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not isinstance(error.value, EngineGoneError)
    assert client.request("x") == ["x", os.getpid()]
    client.close()
