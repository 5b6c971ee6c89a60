"""A mixture keeps its shares, ends each pass over a stream before the next, and is the same however it is read."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import ConfigError
from streaming.order.apportion import MOST, Shares
from streaming.order.mixture import Mixture
from streaming.order.permutation import Shuffled

SEEDS = st.integers(-(2**63), 2**63 - 1)
SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=6)
GOLDEN = [1539, 1658, 1, 2597, 791, 2628, 1289, 2794, 3002, 712, 2965, 1873]
GOLDEN_PARTED = [1, 8, 5, 9, 2, 4, 1, 9, 0, 5, 3, 6, 7, 2, 8]
WEIGHTS = st.lists(st.floats(0.01, 10), min_size=6, max_size=6)


def named(values: list[Any]) -> dict[str, Any]:
    return {f"s{at}": value for at, value in enumerate(values)}


def run_of(mixture: Mixture, positions: int) -> np.ndarray:
    """The samples of the first positions of the run."""
    epochs, rest = divmod(positions, mixture.epoch_size)
    parts = [mixture.samples(epoch, 0, mixture.epoch_size) for epoch in range(epochs)]
    return np.concatenate([*parts, mixture.samples(epochs, 0, rest)])


def assert_strict(mixture: Mixture, samples: np.ndarray) -> None:
    """No sample of a stream comes again before all others of its stream came."""
    streams, inside = mixture.stream_of(samples)
    sizes = np.bincount(mixture.stream_of(np.arange(mixture.num_samples))[0])
    for stream, size in enumerate(sizes.tolist()):
        ours = inside[streams == stream]
        for start in range(0, len(ours), size or 1):
            one_pass = ours[start : start + size]
            assert len(set(one_pass.tolist())) == len(one_pass)
            assert one_pass.min(initial=0) >= 0
            assert one_pass.max(initial=0) < size


@settings(deadline=None, max_examples=60)
@given(SIZES, WEIGHTS, SEEDS, st.integers(1, 6000), st.booleans())
def test_each_pass_over_a_stream_ends_before_the_next(
    sizes: list[int], weights: list[float], seed: int, epoch_size: int, shuffle: bool
) -> None:
    """Whatever the weights and the epochs: strictly one pass after the other."""
    weighted = named(weights[: len(sizes)])
    mixture = Mixture(named(sizes), weighted, seed=seed, epoch_size=epoch_size, shuffle=shuffle)
    assert_strict(mixture, run_of(mixture, 7000))


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS, st.booleans())
def test_without_weights_every_sample_comes_once_in_an_epoch(sizes: list[int], seed: int, shuffle: bool) -> None:
    """The default is each sample once an epoch, in another order each time."""
    mixture = Mixture(named(sizes), seed=seed, shuffle=shuffle)
    for epoch in (0, 1, 7):
        assert np.array_equal(np.sort(mixture.samples(epoch, 0, mixture.epoch_size)), np.arange(sum(sizes)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 1500), st.floats(0.5, 4)), min_size=1, max_size=4), SEEDS)
def test_repeats_come_exactly(streams: list[tuple[int, float]], seed: int) -> None:
    """In every epoch each sample comes floor(r) or ceil(r) times, and each pass still ends before the next."""
    sizes, repeats = named([size for size, _ in streams]), named([times for _, times in streams])
    mixture = Mixture(sizes, repeats=repeats, seed=seed)
    for epoch in range(4):
        at, inside = mixture.stream_of(mixture.samples(epoch, 0, mixture.epoch_size))
        for number, (size, times) in enumerate(streams):
            came = np.bincount(inside[at == number], minlength=size)
            assert came.sum() == math.floor(times * size + 0.5)
            assert math.floor(times) <= came.min()
            assert came.max() <= math.ceil(times)
    assert_strict(mixture, run_of(mixture, 3 * mixture.epoch_size))


def test_half_a_pass_at_the_end_of_an_epoch_goes_on_in_the_next() -> None:
    """2.5 passes an epoch are five over two epochs, and each sample comes 2 or 3 times in each."""
    mixture = Mixture({"code": 10}, repeats={"code": 2.5})
    came = [np.bincount(mixture.samples(epoch, 0, 25), minlength=10) for epoch in range(2)]
    assert set(came[0].tolist()) == set(came[1].tolist()) == {2, 3}
    assert (came[0] + came[1]).tolist() == [5] * 10


def test_large_passes_are_permutations_too() -> None:
    """A stream beyond the size that is drawn by sorting, with whole and broken passes."""
    mixture = Mixture({"a": 5000, "b": 1030}, repeats={"a": 1.3, "b": 2})
    assert_strict(mixture, run_of(mixture, 4 * mixture.epoch_size))
    orders = [mixture.samples(epoch, 0, mixture.epoch_size) for epoch in range(3)]
    assert (orders[0] == orders[1]).mean() < 0.01


@settings(deadline=None, max_examples=100)
@given(SIZES, WEIGHTS, SEEDS, st.lists(st.integers(0, 3000), max_size=8), st.booleans())
def test_reading_in_parts_changes_nothing(
    sizes: list[int], weights: list[float], seed: int, cuts: list[int], shuffle: bool
) -> None:
    """However the epochs are cut, whoever asks, in whatever order."""

    def made() -> Mixture:
        changes = {1500: named(weights[::-1][: len(sizes)])}
        chosen = named(weights[: len(sizes)])
        return Mixture(named(sizes), chosen, seed=seed, epoch_size=3000, shuffle=shuffle, weight_schedule=changes)

    whole = made().samples(1, 0, 3000)
    borders = sorted({0, *cuts, 3000})
    parts = list(pairwise(borders))
    other = made()
    found = {start: other.samples(1, start, stop) for start, stop in reversed(parts)}
    assert np.array_equal(np.concatenate([found[start] for start, _ in parts]), whole)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(any), st.integers(0, 10**9))
def test_shares_are_kept_within_one(weights: list[int], number: int) -> None:
    """At each border the counts add up, are off by less than 1 (2 for tiny shares), and have not fallen."""
    shares, total = Shares(weights), sum(weights)
    before = shares.counts(number * shares.block)
    position = (number + 1) * shares.block
    after = shares.counts(position)
    assert sum(after) == position
    for was, now, weight in zip(before, after, weights, strict=True):
        assert now >= was
        assert abs(now * total - position * weight) < total * (1 if weight * MOST >= total else 2)


def test_tiny_shares_get_their_places() -> None:
    """Many streams of a few samples beside a huge one: each sample once an epoch."""
    sizes = {"web": 2_000_000, **{f"tiny{at}": at % 7 + 1 for at in range(50)}}
    mixture = Mixture(sizes)
    assert np.array_equal(np.sort(mixture.samples(3, 0, mixture.epoch_size)), np.arange(mixture.epoch_size))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_counts_of_the_run_are_told(shuffle: bool) -> None:
    """At any position `counts` is what was delivered, near the shares, also after a change of weights."""
    changes: dict[int, dict[str, float]] = {5000: {"a": 1, "b": 0}, 9000: {"a": 0.1, "b": 0.9}}
    mixture = Mixture(
        {"a": 100, "b": 300}, {"a": 0.3, "b": 0.7}, epoch_size=4000, weight_schedule=changes, shuffle=shuffle
    )
    streams, _ = mixture.stream_of(run_of(mixture, 12_000))
    for position in (0, 1, 1024, 3999, 4000, 5000, 5001, 8999, 9000, 11_999):
        delivered = np.bincount(streams[:position], minlength=2).tolist()
        assert list(mixture.counts(*divmod(position, 4000)).values()) == delivered
    assert abs((streams[:1024] == 0).sum() - 0.3 * 1024) < 1
    assert (streams[5000:9000] == 0).all()
    assert abs((streams[9000 : 9000 + 1024] == 0).sum() - 0.1 * 1024) < 1
    assert_strict(mixture, run_of(mixture, 12_000))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9000), st.sampled_from([{}, {"weights": {"a": 1, "b": 2}}, {"temperature": 3}]))
def test_a_change_of_weights_leaves_what_was_before(position: int, how: dict[str, Any]) -> None:
    """A run can be resumed with other weights: the order before the change is the same, and no pass is disturbed."""
    sizes = {"a": 500, "b": 1500}
    plain = Mixture(sizes, **how)
    changed = Mixture(sizes, **how, weight_schedule={position: {"a": 0.9, "b": 0.1}})
    assert np.array_equal(run_of(plain, position), run_of(changed, position))
    assert_strict(changed, run_of(changed, 12_000))
    assert changed.settings(before=position) == plain.settings()
    assert changed.settings() != plain.settings()


def test_without_shuffle_streams_are_spread_evenly() -> None:
    """Each stream from first to last, and never far from its share at any position."""
    mixture = Mixture({"a": 40, "b": 10}, shuffle=False)
    streams, inside = mixture.stream_of(mixture.samples(0, 0, 50))
    assert inside[streams == 0].tolist() == list(range(40))
    assert inside[streams == 1].tolist() == list(range(10))
    assert np.abs(np.cumsum(streams == 1) - np.arange(1, 51) / 5).max() <= 1


def test_temperature_evens_the_streams_out() -> None:
    """Weights are size ** (1 / temperature); 1 is by size."""
    sizes = {"big": 1_000_000, "small": 100}
    mixture = Mixture(sizes, temperature=2)
    share = mixture.counts(0, 101_000)["small"] / 101_000
    assert share == pytest.approx(10 / 1010, rel=0.02)
    assert np.array_equal(Mixture(sizes, temperature=1).samples(0, 0, 99), Mixture(sizes).samples(0, 0, 99))


def test_a_stream_without_weight_never_comes() -> None:
    """Weight 0 leaves a stream out, also an empty one; the numbers of the others stay."""
    mixture = Mixture({"a": 0, "b": 3, "c": 5, "d": 0}, {"a": 0, "b": 0, "c": 2, "d": 0})
    samples = mixture.samples(0, 0, mixture.epoch_size)
    assert set(samples.tolist()) == {3, 4, 5, 6, 7}
    assert mixture.stream_of(np.array([0, 3, 7]))[0].tolist() == [1, 2, 2]


def test_another_stream_does_not_change_the_order_within_a_stream() -> None:
    """A stream's passes depend on its name, its size and the seed alone."""
    alone, beside = Mixture({"a": 2000}), Mixture({"z": 77, "a": 2000}, {"a": 0.9, "z": 0.1})
    streams, inside = beside.stream_of(run_of(beside, 5000))
    ours = inside[streams == 1]
    assert np.array_equal(run_of(alone, len(ours)), ours)


def test_the_order_stays_what_it_is() -> None:
    """A saved state means the same order in every release: a change needs a new ALGORITHM."""
    mixture = Mixture({"a": 3000, "b": 10}, {"a": 0.8, "b": 0.2}, seed=42)
    assert mixture.samples(2, 5, 17).tolist() == GOLDEN
    parted = Mixture({"a": 10}, repeats={"a": 1.5}, seed=1)
    assert parted.samples(1, 0, 15).tolist() == GOLDEN_PARTED


def test_settings_are_short_and_tell_mixtures_apart() -> None:
    """Below 300 bytes with 2,000 streams, the same for the same arguments, different for any other."""
    many = Mixture(named([10] * 2000), weight_schedule={5: named([1] * 2000), 10**15: named([0.5] * 2000)})
    assert len(json.dumps(many.settings())) < 300
    kinds = [
        Mixture({"a": 10, "b": 20}),
        Mixture({"b": 20, "a": 10}),
        Mixture({"a": 10, "b": 20}, seed=1),
        Mixture({"a": 10, "b": 20}, shuffle=False),
        Mixture({"a": 10, "b": 20}, {"a": 1, "b": 2}),
        Mixture({"a": 10, "b": 20}, {"a": 1, "b": 1}),
        Mixture({"a": 10, "b": 20}, epoch_size=31),
        Mixture({"a": 10, "b": 20}, weight_schedule={7: {"a": 1, "b": 1}}),
        Mixture({"a": 10, "b": 20}, weight_schedule={8: {"a": 1, "b": 1}}),
    ]
    assert len({json.dumps(kind.settings()) for kind in kinds}) == len(kinds)
    assert Mixture({"a": 10, "b": 20}, {"a": 0.1, "b": 0.2}).settings() == kinds[4].settings()


def test_it_is_an_order_and_can_be_copied() -> None:
    """It has what `Shuffled` has, and a pickled one goes on as the first."""
    mixture = Mixture({"a": 30, "b": 70}, {"a": 1, "b": 1})
    assert {name for name in dir(Shuffled(1)) if name[0] != "_"} <= set(dir(mixture))
    assert (mixture.epoch_size, mixture.num_samples) == (100, 100)
    assert np.array_equal(pickle.loads(pickle.dumps(mixture)).samples(5, 3, 90), mixture.samples(5, 3, 90))
    assert mixture.samples(0, 7, 7).dtype == np.int64


@pytest.mark.parametrize(("epoch", "start", "stop"), [(0, -1, 2), (0, 3, 2), (0, 0, 31), (-1, 0, 1)])
def test_positions_out_of_range_are_refused(epoch: int, start: int, stop: int) -> None:
    """An epoch has the positions 0 to n."""
    with pytest.raises(IndexError, match="n = 30"):
        Mixture({"a": 10, "b": 20}).samples(epoch, start, stop)


AB = {"a": 10, "b": 20}


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {}, "at least one stream"),
        ({"a": -1}, {}, "'a' has size -1"),
        ({"a": 1.5}, {}, "'a' has size 1.5"),
        ({"a": True}, {}, "'a' has size True"),
        ({"a": 2**61, "b": 2**62}, {}, "at most 2"),
        ({"a": 10, "b": 0}, {}, "'b' has no samples"),
        ({"a": 10, "b": 0}, {"weights": {"a": 1, "b": 0.5}}, "'b' has no samples, and a weight of 0.5"),
        ({"a": 10, "b": 0}, {"temperature": 2}, "'b' has no samples"),
        (AB, {"weights": {"a": -0.5, "b": 1}}, "'a' is -0.5"),
        (AB, {"weights": {"a": 1, "b": math.nan}}, "'b' is nan"),
        (AB, {"weights": {"a": math.inf, "b": 1}}, "'a' is inf"),
        (AB, {"weights": {"a": "1", "b": 1}}, "'a' is '1'"),
        (AB, {"weights": {"a": None, "b": 1}}, "'a' is None"),
        (AB, {"weights": {"a": 0, "b": 0}}, "0 for all streams"),
        (AB, {"weights": {"a": 1, "c": 1}}, "'c'.*'a', 'b'"),
        (AB, {"weights": {"a": 1}}, "'b' has no weight"),
        (AB, {"weights": {"a": 1, "b": 1}, "temperature": 2}, "weights and temperature"),
        (AB, {"repeats": {"c": 1}}, "'c'"),
        (AB, {"repeats": {"a": 0, "b": 0}}, "0 for all streams"),
        (AB, {"repeats": {"a": 0.01}}, "repeats of 0.01 .* 'a'"),
        (AB, {"repeats": {"a": -2}}, "'a' is -2"),
        (AB, {"repeats": {"a": 2}, "epoch_size": 10}, "epoch_size=10"),
        (AB, {"repeats": {"a": 2}, "weight_schedule": {5: {"a": 1, "b": 1}}}, "exact counts of repeats"),
        (AB, {"temperature": 0}, "temperature=0"),
        (AB, {"temperature": -1}, "temperature is -1"),
        (AB, {"temperature": 1e-5}, "leaves nothing of stream 'a'"),
        (AB, {"epoch_size": 0}, "epoch_size=0"),
        (AB, {"epoch_size": 2.5}, "epoch_size=2.5"),
        (AB, {"weight_schedule": {-1: {"a": 1, "b": 1}}}, "position -1"),
        (AB, {"weight_schedule": {1.5: {"a": 1, "b": 1}}}, "position 1.5"),
        (AB, {"weight_schedule": {9: {"a": 1, "b": 1}, 4: {"a": 1, "b": 2}}}, "position 4"),
        (AB, {"weight_schedule": {9: {"a": 1, "b": -1}}}, "position 9 on of stream 'b' is -1"),
        (AB, {"weight_schedule": {9: {"a": 0, "b": 0}}}, "position 9 on are 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(sizes: Any, options: Any, message: str) -> None:
    """The error names the stream and the value."""
    with pytest.raises(ConfigError, match=message):
        Mixture(sizes, **options)
