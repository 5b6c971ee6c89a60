"""Errors for another process, with their type, attributes, notes and causes, even if they do not pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

__all__ = ["pickle_error"]

_MOST_CAUSES = 16
_OS_ATTRIBUTES = ("errno", "strerror", "filename", "filename2")  # which are not in `__dict__`


class _Link(NamedTuple):
    """One error of a chain, and how it follows from the next."""

    pickled: bytes | None
    text: str  # for a process that cannot load it
    is_cause: bool
    is_alone: bool  # `raise ... from None`


class _Chain:
    """Pickles as the error itself."""

    def __init__(self, links: list[_Link]) -> None:
        self._links = links

    def __reduce__(self) -> tuple[Any, ...]:
        return _chained, ([tuple(link) for link in self._links],)


def pickle_error(error: BaseException) -> bytes:
    """Return a pickle that loads as an equal error: same type, message, attributes, notes, `__cause__` and context.

    Tracebacks are dropped, and attributes that do not pickle become their text. An error of a class that the other
    process cannot import becomes one of its nearest base class there, with the name in its text.
    """
    links: list[_Link] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(links) < _MOST_CAUSES:
        seen.add(id(current))
        cause = current.__cause__
        text = f"{type(current).__qualname__}: {_text(current)}"
        is_alone = cause is None and current.__suppress_context__
        links.append(_Link(_pickled(current, text), text, cause is not None, is_alone))
        current = cause if cause is not None else None if is_alone else current.__context__
    return pickle.dumps(_Chain(links), protocol=5)


def _chained(links: list[tuple[Any, ...]]) -> BaseException:
    first: BaseException | None = None
    last: tuple[BaseException, _Link] | None = None
    for link in map(_Link._make, links):
        error = _loaded(link)
        error.__suppress_context__ = link.is_alone
        if last is None:
            first = error
        elif last[1].is_cause:
            last[0].__cause__ = error
        else:
            last[0].__context__ = error
        last = error, link
    assert first is not None
    return first


def _loaded(link: _Link) -> BaseException:
    try:
        error = pickle.loads(link.pickled or b"")
    except Exception:
        return RuntimeError(link.text)
    return error if isinstance(error, BaseException) else RuntimeError(link.text)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as exc:
        return f"(its text is not available: {exc!r})"


def _pickled(error: BaseException, text: str) -> bytes | None:
    """Try several ways to pickle an error: a custom `__init__` may build a different error from the arguments."""
    bases = [base for base in type(error).__mro__[1:] if issubclass(base, BaseException)]
    parts = [partial(_Parts, type(error), error), *(partial(_Parts, base, error, text) for base in bases)]
    return _round_trip(lambda: error, error) or next(filter(None, map(_round_trip, parts)), None)


def _round_trip(make: Callable[[], Any], like: BaseException | None = None) -> bytes | None:
    """Return the pickle of what `make` returns, if it loads as an error with the text and attributes of `like`."""
    try:
        data = pickle.dumps(make(), protocol=5)
        copy = pickle.loads(data)
        is_like = like is None or (_text(copy) == _text(like) and vars(copy).keys() == vars(like).keys())
        return data if isinstance(copy, BaseException) and is_like else None
    except Exception:
        return None


class _Parts:
    """Pickles as an error that is created without its `__init__`, whose arguments are unknown."""

    def __init__(self, kind: type[BaseException], error: BaseException, text: str | None = None) -> None:
        self._kind = kind
        self._args = tuple(map(_crossing, error.args)) if text is None else (text,)
        named = {name: getattr(error, name, None) for name in _OS_ATTRIBUTES} if isinstance(error, OSError) else {}
        state = {**named, **vars(error)}
        self._state = {name: _crossing(value) for name, value in state.items() if value is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._kind, self._args, self._state)


def _made(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _crossing(value: Any) -> Any:
    try:
        pickle.loads(pickle.dumps(value, protocol=5))
    except Exception:
        return repr(value)
    return value
