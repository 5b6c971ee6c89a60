"""Cost of a small file to its reader: memory up to the limit plus an allowance, and time in proportion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from streaming.codecs import decode
from tests.security import codec_attacks
from tests.security.attack import Killed, Outcome, attack
from tests.security.codec_attacks import LIMIT, Attack

_MIB = 1 << 20
# Three times the limit: the object, what it unpacks to, and the sample; then what the libraries take on first use.
_MOST_BYTES = 3 * LIMIT + 24 * _MIB


def run(path: str, data: bytes, seconds: float = 6) -> Outcome:
    """Decode it under the limit, where it cannot do harm."""
    return attack(partial(decode, data, path, max_bytes=LIMIT), memory_bytes=400 * _MIB, seconds=seconds)


@pytest.mark.parametrize(
    "kind",
    [
        codec_attacks.arithmetic,
        codec_attacks.containers,
        codec_attacks.sizes,
        codec_attacks.objects,
        codec_attacks.cycles,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_attack_is_refused_within_the_limit(kind: Callable[[], dict[str, Attack]]) -> None:
    """Each is refused by an error of ours, within three times the limit and in seconds."""
    failures = []
    for name, (path, data, expected) in kind().items():
        outcome = run(path, data)
        if type(outcome.error) is not expected or outcome.peak_bytes > _MOST_BYTES:
            shown = str(outcome.error) if isinstance(outcome.error, Killed) else repr(outcome.error)
            failures.append(
                f"{name}: {len(data):,} B -> {outcome.peak_bytes:,} B, {outcome.cpu_s:.1f} s, {shown[:160]}"
            )
    assert not failures, "\n".join(failures)
