"""Errors are the same after they were sent to another process."""

import json
import pickle
import threading

import pytest

from streaming.errors import ObjectNotFoundError, SourceUnavailable
from streaming.link.pickled_errors import pickle_error


class _TwoArguments(Exception):
    """An error like those of many clients: its attributes are not its constructor's arguments."""

    def __init__(self, code, where):
        super().__init__(f"code {code} at {where}")
        self.code = code
        self.lock = threading.Lock()


class _Prefixed(ValueError):
    """An error that pickles, but loads with another text."""

    def __init__(self, key):
        super().__init__(f"no {key}")


class _Refused(OSError):
    def __init__(self, number, *, host):
        super().__init__(number, f"refused by {host}")
        self.host = host


class _Unspeakable(Exception):
    def __str__(self):
        raise ZeroDivisionError


def _crossed(error):
    return pickle.loads(pickle_error(error))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        FileNotFoundError(2, "No such file", "a.bin"),
        _TwoArguments(7, "home"),
        _Prefixed("key"),
        _Refused(111, host="here"),
        SourceUnavailable("down", path="a", source="b"),
        json.JSONDecodeError("bad", "{", 1),
        ExceptionGroup("two", [KeyError("a"), ValueError("b")]),
    ],
    ids=repr,
)
def test_type_text_and_attributes_survive(error):
    """They do so with any constructor."""
    error.add_note("seen at noon")
    crossed = _crossed(error)
    assert type(crossed) is type(error)
    assert (str(crossed), crossed.__notes__) == (str(error), ["seen at noon"])
    for name in ("code", "host", "path", "source", "status", "errno", "filename", "doc"):
        assert getattr(crossed, name, None) == getattr(error, name, None)


def test_causes_and_contexts_survive():
    """The whole chain survives, each link in its role; a context hidden with `from None` stays hidden."""
    try:
        try:
            try:
                raise KeyError("deep")
            except KeyError:
                raise _TwoArguments(1, "x")  # noqa: B904 - a context
        except _TwoArguments as exc:
            raise ObjectNotFoundError("gone", path="p") from exc
    except ObjectNotFoundError as exc:
        crossed = _crossed(exc)
    assert (crossed.path, type(crossed.__cause__), crossed.__cause__.code) == ("p", _TwoArguments, 1)
    assert isinstance(crossed.__cause__.__context__, KeyError)
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as exc:
        crossed = _crossed(exc)
    assert crossed.__suppress_context__
    assert crossed.__context__ is None
    loop = ValueError("loop")
    loop.__cause__ = KeyError("a")
    loop.__cause__.__context__ = loop
    assert isinstance(_crossed(loop).__cause__, KeyError)


def test_an_error_that_cannot_be_imported_becomes_one_of_the_nearest_class():
    """A handler for the base class works, and the text has the name."""

    class Local(FileNotFoundError):
        pass

    crossed = _crossed(Local(2, "gone", "a.bin"))
    assert type(crossed) is FileNotFoundError
    assert "Local" in str(crossed.args)
    assert crossed.filename == "a.bin"
    assert "_Unspeakable" in repr(_crossed(_Unspeakable())) or type(_crossed(_Unspeakable())) is _Unspeakable
