"""Feed nearly valid input to each parser of `parsers`: `python -m tests.security.fuzz SECONDS [NAME ...]`.

Hypothesis changes valid inputs and minimizes a failing one. Each call must return a value or raise an error of ours,
within 256 MiB of memory for a limit of 1 MB and two seconds of CPU time. An input that kills the process is kept in the
file named at the end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import sys
import tempfile
import warnings
from pathlib import Path
from time import monotonic

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.security.attack import PRELOADED, address_space
from tests.security.parsers import PARSERS, Parser

_MEMORY_BYTES = 256 << 20
_EXAMPLE_CPU_S = 2.0
_EXAMPLES = 100  # of a round, which has a seed
_NUMBERS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
]

round_settings = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def changed(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample with a few bytes replaced, removed, repeated, made a number of note, or taken from another sample."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 16)))
        kind = draw(st.sampled_from(["replace", "number", "repeat", "splice", "cut"]))
        if kind == "replace":
            data[start:end] = draw(st.binary(max_size=8))
        elif kind == "number":
            content = struct.pack("<Q", draw(st.sampled_from(_NUMBERS)))[: draw(st.sampled_from([1, 2, 4, 8]))]
            data[start : start + len(content)] = content
        elif kind == "repeat":
            data[start:end] = data[start:end] * draw(st.integers(0, 2000))
        elif kind == "splice":
            other = draw(st.sampled_from(samples))
            first = draw(st.integers(0, len(other)))
            data[start:end] = other[first : first + draw(st.integers(0, 64))]
        else:
            del data[start:]
    return bytes(data)


def fuzz(parser: Parser, seconds: float, last: Path) -> int:
    """Feed it until the time is over; return the number of inputs. Raises what it raised, and notes the seed."""
    samples = parser.samples()
    tried = 0
    ends = monotonic() + seconds

    def check(data: bytes) -> None:
        nonlocal tried
        tried += 1
        last.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, _EXAMPLE_CPU_S)
        try:
            with contextlib.suppress(parser.error):
                parser.parse(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    for sample in samples:
        check(sample)
    number = int.from_bytes(os.urandom(4), "little")
    while monotonic() < ends:
        number += 1
        try:
            seed(number)(round_settings(given(changed(samples))(check)))()
        except BaseException as exc:
            exc.add_note(f"parser {parser.name}, seed {number}; the input is in {last}")
            raise
    return tried


def main(seconds: float, names: list[str]) -> None:
    """Divides the time among the parsers, in this process, whose memory is limited from here on."""
    warnings.simplefilter("ignore")
    for name in PRELOADED:
        __import__(name)
    chosen = [parser for parser in PARSERS if not names or parser.name in names]
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + _MEMORY_BYTES, hard))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for parser in chosen:
        last = folder / parser.name
        say(f"{parser.name}: the last input is in {last}")
        tried = fuzz(parser, seconds / len(chosen), last)
        say(f"{parser.name}: {tried:,} inputs")
        last.unlink()
    folder.rmdir()


def say(line: str) -> None:
    """On standard output, at once: the next input may end the process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
