"""Errors of this library, in one tree.

::

    StreamingError
    ├── ConfigError                   (ValueError)         a setting that cannot be used
    │   └── StateError                                     a saved state that does not fit this run
    ├── MissingExtra                  (ImportError)        an optional package is not installed
    ├── InvalidPath                   (ValueError)         `..`, an absolute path, NUL
    ├── SourceError                   (OSError)            reading or listing a source failed
    │   ├── ObjectNotFoundError       (FileNotFoundError)  the object does not exist
    │   ├── AccessDenied              (PermissionError)    refused: credentials or file mode
    │   ├── SourceTimeout             (TimeoutError)       no answer in time; retryable
    │   ├── SourceUnavailable         (ConnectionError)    refused, reset, 5xx; retryable
    │   ├── TruncatedRead                                  fewer bytes than announced; retryable
    │   ├── ObjectChanged                                  not the object that was listed
    │   └── BadRequest                                     the source cannot serve this request; final
    ├── DecodeError                   (ValueError)         bytes that do not match their suffix
    │   ├── UnknownFormat                                  no codec for this suffix
    │   ├── TruncatedData                                  ends before its own header says
    │   ├── UnsafeData                                     would run code, or nests too deep
    │   └── ObjectTooLargeError                            declares or holds more than the limit
    ├── PrepareError                  (RuntimeError)       a user's `prepare` or `transform` failed
    ├── TooManyBadSamples             (RuntimeError)       more samples had to be replaced than allowed
    ├── IndexBuildError               (ValueError)         samples cannot be matched
    │   ├── MissingPart               (LookupError)        a sample lacks one of its parts
    │   ├── DuplicateName                                  two objects claim one sample
    │   └── NoSamples                                      there are objects, and none becomes a sample
    ├── IndexFileError                (ValueError)         a saved index is cut short or of another version
    ├── ClosedError                   (RuntimeError)       used after close
    ├── WrongThreadError              (RuntimeError)       a blocking call on the library's own loop thread
    └── EngineGoneError               (ConnectionError)    the process that reads for this worker has ended

Each error also inherits the builtin in brackets, so plain handlers work. Every message names the object, the source,
what was tried and the next step.
"""

from __future__ import annotations

import json
import sys

from streaming.core.masking import mask_error, mask_message, mask_secrets

__all__ = [
    "AccessDenied",
    "BadRequest",
    "ClosedError",
    "ConfigError",
    "DecodeError",
    "DuplicateName",
    "EngineGoneError",
    "IndexBuildError",
    "IndexFileError",
    "InvalidPath",
    "MissingExtra",
    "MissingPart",
    "NoSamples",
    "ObjectChanged",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "PrepareError",
    "SourceError",
    "SourceTimeout",
    "SourceUnavailable",
    "StateError",
    "StreamingError",
    "TooManyBadSamples",
    "TruncatedData",
    "TruncatedRead",
    "UnknownFormat",
    "UnsafeData",
    "WrongThreadError",
]


_NOTE = "attributes: "
_NOTED = ("path", "source", "status", "retry_after_s")


class StreamingError(Exception):
    """Base of all errors of this library. Contains no secret, and masks secrets in the text of its causes.

    Can be made from a message alone, as PyTorch does when it passes on an error of a DataLoader worker: the message is
    then the worker's whole traceback, from which the attributes are taken (see `note_attributes`).

    Attributes:
        path: path of the object or file, relative to its source, or None.
        source: name of the source, or None.
        retryable: whether the same call may succeed when tried again.
    """

    retryable = False

    def __init__(self, message: str = "", *, path: str | None = None, source: str | None = None) -> None:
        super().__init__(mask_message(message) if isinstance(message, str) else message)
        self.path = mask_secrets(path) if path is not None and "://" in path else path
        self.source = source
        if (handled := sys.exc_info()[1]) is not None:
            mask_error(handled, StreamingError)
        if path is None and isinstance(message, str) and message.startswith("Caught "):
            self._take_noted(message)

    def _take_noted(self, message: str) -> None:
        notes = [line for line in message.splitlines() if line.startswith(_NOTE)]
        if notes:
            try:
                self.__dict__.update(json.loads(notes[-1].removeprefix(_NOTE)))
            except ValueError:
                return

    def note_attributes(self) -> None:
        """Add a note with the attributes, for processes that get only the text of this error. Idempotent."""
        found = {name: getattr(self, name, None) for name in _NOTED}
        note = _NOTE + json.dumps({name: value for name, value in found.items() if value is not None})
        if note not in getattr(self, "__notes__", ()):
            self.add_note(note)


class ConfigError(StreamingError, ValueError):
    """A setting that cannot be used; the message holds the value and, for an unknown name, the nearest valid one."""


class StateError(ConfigError):
    """A saved state that is damaged, or belongs to another run; the message says what differs."""


class MissingExtra(StreamingError, ImportError):
    """An optional package is not installed; the message says which extra installs it."""


class InvalidPath(StreamingError, ValueError):
    """A path that leaves its root: `..`, absolute, or with a NUL."""


class SourceError(StreamingError, OSError):
    """Reading or listing a source failed.

    Attributes:
        status: status of the server's response, or None.
        retry_after_s: seconds that the server asks to wait before the next try, or None.
    """

    status: int | None = None
    retry_after_s: float | None = None


class ObjectNotFoundError(SourceError, FileNotFoundError):
    """The object does not exist. Never raised for a refused login: that is `AccessDenied`."""


class AccessDenied(SourceError, PermissionError):
    """Refused: missing or wrong credentials, or the mode of a file."""


class SourceTimeout(SourceError, TimeoutError):
    """No answer within the time allowed."""

    retryable = True


class SourceUnavailable(SourceError, ConnectionError):
    """Connection refused or reset, a name that does not resolve, or a 5xx response."""

    retryable = True


class TruncatedRead(SourceError):
    """The source sent fewer or more bytes than it announced."""

    retryable = True


class ObjectChanged(SourceError):
    """The object is not the one that was listed: another size or ETag."""


class BadRequest(SourceError):
    """The source cannot serve this request, and a retry would not help."""


class DecodeError(StreamingError, ValueError):
    """Bytes that do not match their suffix."""


class UnknownFormat(DecodeError):
    """No codec for this suffix."""


class TruncatedData(DecodeError):
    """The data ends before the length in its header."""


class UnsafeData(DecodeError):
    """Data that would run code when loaded, or exhaust the stack."""


class ObjectTooLargeError(DecodeError):
    """Declared or actual size beyond the limit; nothing of that size was allocated."""


class PrepareError(StreamingError, RuntimeError):
    """A user's `prepare` or `transform` failed; the original error is the cause."""


class TooManyBadSamples(StreamingError, RuntimeError):
    """A larger share of the samples had to be replaced than `max_bad_share` allows; the last error is the cause."""


class IndexBuildError(StreamingError, ValueError):
    """The samples of the sources cannot be matched to each other."""


class MissingPart(IndexBuildError, LookupError):
    """A sample lacks one of its parts."""


class DuplicateName(IndexBuildError):
    """Two objects of one source claim to be the same part of the same sample."""


class NoSamples(IndexBuildError):
    """The sources hold objects, but none becomes a sample; the message counts them by reason and suffix."""


class IndexFileError(StreamingError, ValueError):
    """A saved index is cut short, damaged, of another version or writable by others; build it again."""


class ClosedError(StreamingError, RuntimeError):
    """Used after close."""


class WrongThreadError(StreamingError, RuntimeError):
    """A blocking call on the library's event-loop thread, which would deadlock."""


class EngineGoneError(StreamingError, ConnectionError):
    """The process that reads for this worker has ended."""
