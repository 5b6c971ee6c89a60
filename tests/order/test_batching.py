"""Batches and packs by length: every sample once, within the budget, the same however they are read."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import ConfigError
from streaming.order.batching import BatchPlan, SequencePacking, TokenBudgetBatching
from streaming.order.bin_packing import best_fit, first_fit
from streaming.order.mixture import Mixture
from streaming.order.permutation import Order, Sequential, Shuffled

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=300)
GOLDEN = {
    "tokens": [[4, 2], [1, 8, 7], [3], [5, 0], [9, 6]],
    "best-fit": [[1, 2], [3, 4, 7], [8], [6], [0], [9, 5]],
    "first-fit": [[3, 1, 8], [4, 7], [2], [6], [0], [9, 5]],
}
KINDS = st.sampled_from(["tokens", "best-fit", "first-fit"])


def batching(kind: str, lengths: Any, max_tokens: int, window: int = 64) -> TokenBudgetBatching | SequencePacking:
    if kind == "tokens":
        return TokenBudgetBatching(lengths, max_tokens, window=window)
    return SequencePacking(lengths, max_tokens, method=kind, window=window)


def whole(plan: BatchPlan, epoch: int) -> list[list[int]]:
    """All units of an epoch."""
    return [unit.tolist() for unit in plan.read(epoch, 0, plan.num_groups(epoch))]


@settings(deadline=None)
@given(LENGTHS, KINDS, st.integers(64, 300), st.integers(1, 400), st.integers(0, 9))
def test_every_sample_comes_once_in_an_epoch(
    lengths: list[int], kind: str, max_tokens: int, window: int, epoch: int
) -> None:
    """In units that are not empty, whatever the window and the epoch."""
    plan = batching(kind, lengths, max_tokens, window).plan(Shuffled(len(lengths), 5))
    units = whole(plan, epoch)
    assert sorted(sample for unit in units for sample in unit) == list(range(len(lengths)))
    assert all(units)


@settings(deadline=None)
@given(LENGTHS, st.integers(72, 300), st.sampled_from([1, 8, 24]), st.sampled_from([None, 1, 5]))
def test_a_batch_is_within_its_budget(
    lengths: list[int], max_tokens: int, multiple_of: int, max_samples: int | None
) -> None:
    """Samples times the longest, raised to the multiple, is within the budget; the padding is what these sizes say."""
    batches = TokenBudgetBatching(lengths, max_tokens, multiple_of=multiple_of, max_samples=max_samples)
    plan = batches.plan(Shuffled(len(lengths)))
    sizes = []
    for unit in whole(plan, 0):
        longest = max(lengths[sample] for sample in unit)
        sizes.append(len(unit) * -(-longest // multiple_of) * multiple_of)
        assert len(unit) <= (max_samples or len(lengths))
    assert max(sizes) <= max_tokens
    assert plan.padding(0) == pytest.approx(1 - sum(lengths) / sum(sizes))


@settings(deadline=None)
@given(LENGTHS, st.sampled_from(["best-fit", "first-fit"]), st.integers(64, 300))
def test_a_pack_is_within_its_budget(lengths: list[int], method: str, max_tokens: int) -> None:
    """The lengths of a pack add up to at most the budget; the padding is what is left."""
    plan = SequencePacking(lengths, max_tokens, method=method).plan(Shuffled(len(lengths)))
    packs = whole(plan, 0)
    assert max(sum(lengths[sample] for sample in pack) for pack in packs) <= max_tokens
    assert plan.padding(0) == pytest.approx(1 - sum(lengths) / (len(packs) * max_tokens))


@settings(deadline=None)
@given(LENGTHS, KINDS, st.data())
def test_reading_in_parts_changes_nothing(lengths: list[int], kind: str, data: st.DataObject) -> None:
    """However the units are cut, by whom, in whatever order, counted before or not."""
    order = Shuffled(len(lengths), 3)
    units = whole(batching(kind, lengths, 100).plan(order), 2)
    cuts = data.draw(st.lists(st.integers(0, len(units)), max_size=6))
    other = batching(kind, lengths, 100).plan(order)
    parts = data.draw(st.permutations(list(pairwise(sorted({0, *cuts, len(units)})))))
    for start, stop in parts:
        assert [unit.tolist() for unit in other.read(2, start, stop)] == units[start:stop]
        other.read(data.draw(st.integers(0, 8)), 0, 1)
    assert other.num_groups(2) == len(units)


@pytest.mark.parametrize("kind", ["tokens", "best-fit", "first-fit"])
@pytest.mark.parametrize("order", [Shuffled(1000, 7), Sequential(1000)])
def test_a_window_holds_its_part_of_the_order(kind: str, order: Order) -> None:
    """Units never mix samples of two windows, and keep the samples in the order in which they came."""
    lengths = np.arange(1000) % 37 + 1
    plan = batching(kind, lengths, 64, window=150).plan(order)
    place = {sample: at for at, sample in enumerate(order.samples(4, 0, 1000).tolist())}
    windows = []
    for unit in whole(plan, 4):
        places = [place[sample] for sample in unit]
        assert places == sorted(places)
        assert len({at // 150 for at in places}) == 1
        windows.append(places[0] // 150)
    assert windows == sorted(windows)


def test_units_come_in_a_random_order() -> None:
    """Long batches do not follow each other, and each window and epoch has a turn of its own."""
    lengths = np.arange(4096) % 500 + 1
    plan = TokenBudgetBatching(lengths, 2000, window=2048).plan(Sequential(4096))
    longest = [[max(lengths[sample] for sample in unit) for unit in whole(plan, epoch)] for epoch in (0, 1)]
    assert longest[0] != longest[1]
    assert sorted(longest[0]) == sorted(longest[1])
    assert abs(np.corrcoef(longest[0][:-1], longest[0][1:])[0, 1]) < 0.3


def test_the_seed_of_the_order_is_that_of_the_units() -> None:
    """Two runs of one seed agree, two of different seeds do not."""
    lengths = np.arange(100) % 9 + 1
    first, second, third = (whole(SequencePacking(lengths, 20).plan(Shuffled(100, seed)), 0) for seed in (1, 1, 2))
    assert first == second != third


def test_batches_of_like_lengths_waste_little() -> None:
    """A long-tailed mix: 2 % padding where batches as they come waste two thirds; packs under 1 %."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 1, 20_000), 1, 2048).astype(np.int64)
    order = Shuffled(len(lengths))
    unsorted = lengths[order.samples(0, 0, 20_000)].reshape(-1, 20)
    assert 1 - unsorted.sum() / (unsorted.max(axis=1) * 20).sum() > 0.6
    assert TokenBudgetBatching(lengths, 16_384).plan(order).padding(0) < 0.02
    assert SequencePacking(lengths, 2048).plan(order).padding(0) < 0.01
    assert SequencePacking(lengths, 2048, method="first-fit").plan(order).padding(0) < 0.02


def fit(lengths: list[int], size: int, *, best: bool) -> list[int]:
    """Best-fit and first-fit as they are defined, looking at every bin."""
    rooms: list[int] = []
    found = []
    for length in lengths:
        fits = [at for at, room in enumerate(rooms) if room >= length]
        if fits:
            at = min(fits, key=lambda at: rooms[at]) if best else fits[0]
        else:
            at = len(rooms)
            rooms.append(size)
        rooms[at] -= length
        found.append(at)
    return found


def rooms_left(lengths: list[int], bins: list[int], size: int) -> list[int]:
    return sorted((size - np.bincount(bins, weights=lengths)).astype(int).tolist())


@settings(deadline=None)
@given(LENGTHS, st.integers(64, 300))
def test_fitting_is_what_it_is_called(lengths: list[int], size: int) -> None:
    """The same bins as by looking at each: first-fit one by one, best-fit up to bins with as much room."""
    assert first_fit(lengths, size) == fit(lengths, size, best=False)
    falling = sorted(lengths, reverse=True)
    assert rooms_left(falling, best_fit(falling, size), size) == rooms_left(
        falling, fit(falling, size, best=True), size
    )


def test_the_plan_stays_what_it_is() -> None:
    """A saved state means the same units in every release: a change needs a new ALGORITHM."""
    lengths = [5, 3, 9, 1, 7, 2, 8, 4, 6, 10]
    order = Shuffled(10, 1)
    assert whole(TokenBudgetBatching(lengths, 20, window=6).plan(order), 1) == GOLDEN["tokens"]
    assert whole(SequencePacking(lengths, 12, window=6).plan(order), 1) == GOLDEN["best-fit"]
    assert whole(SequencePacking(lengths, 12, window=6, method="first-fit").plan(order), 1) == GOLDEN["first-fit"]


def test_a_mixture_is_grouped_like_any_order() -> None:
    """Samples that come twice are in two units, those left out in none."""
    order = Mixture({"a": 10, "b": 30, "c": 5}, repeats={"a": 2, "c": 0})
    plan = SequencePacking(np.arange(45) % 8 + 1, 16, window=20).plan(order)
    came = np.bincount(np.concatenate(plan.read(1, 0, plan.num_groups(1))), minlength=45)
    assert came.tolist() == [2] * 10 + [1] * 30 + [0] * 5


def test_lengths_come_from_a_file_too(tmp_path: Path) -> None:
    """A `.npy` file gives what the array gives, in any integer type; the settings do not tell them apart."""
    lengths = np.arange(1, 101)
    np.save(tmp_path / "lengths.npy", lengths.astype(np.uint16))
    plans = [
        SequencePacking(given, 128).plan(Shuffled(100))
        for given in (lengths, tmp_path / "lengths.npy", lengths.tolist())
    ]
    assert whole(plans[0], 0) == whole(plans[1], 0) == whole(plans[2], 0)
    assert plans[0].settings() == plans[1].settings() == plans[2].settings()


def test_settings_tell_plans_apart() -> None:
    """Everything that changes the units is in them; they are short, and share no key with an order's."""
    lengths = np.arange(1, 11)
    order = Shuffled(10)
    kinds: list[TokenBudgetBatching | SequencePacking] = [
        TokenBudgetBatching(lengths, 20),
        TokenBudgetBatching(lengths, 21),
        TokenBudgetBatching(lengths[::-1], 20),
        TokenBudgetBatching(lengths, 20, window=5),
        TokenBudgetBatching(lengths, 20, multiple_of=2),
        TokenBudgetBatching(lengths, 20, max_samples=2),
        SequencePacking(lengths, 20),
        SequencePacking(lengths, 20, method="first-fit"),
    ]
    found = [kind.plan(order).settings() for kind in kinds]
    assert len({json.dumps(each) for each in found}) == len(kinds)
    assert max(len(json.dumps(each)) for each in found) < 200
    assert not set(found[0]) & {*order.settings(), *Mixture({"a": 10}).settings(), "fingerprint"}


def test_an_epoch_without_positions_has_no_units() -> None:
    """Nothing to group is no error, and no padding."""
    plan = SequencePacking(np.zeros(0, np.int64), 8).plan(Shuffled(0))
    assert (plan.num_groups(0), plan.read(0, 0, 0), plan.padding(0)) == (0, [], 0)


def test_a_plan_can_be_copied() -> None:
    """A pickled plan reads on as the first, and `over` may be called for many orders."""
    packing = SequencePacking([3, 4, 5, 6], 8)
    plan = packing.plan(Shuffled(4, 1))
    assert whole(pickle.loads(pickle.dumps(plan)), 3) == whole(plan, 3)
    assert whole(packing.plan(Shuffled(4, 2)), 3) != whole(packing.plan(Sequential(4)), 3)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 4)])
def test_units_out_of_range_are_refused(start: int, stop: int) -> None:
    """An epoch has the units that it has."""
    plan = SequencePacking([8, 8, 8], 8).plan(Shuffled(3))
    with pytest.raises(IndexError, match="3 units"):
        plan.read(0, start, stop)


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([1, 9, 3], {}, "sample 1 has length 9 and max_tokens is 8: raise max_tokens, or cut .* `prepare`"),
        ([1, 0], {}, "sample 1 has length 0"),
        ([1, -4], {}, "sample 1 has length -4"),
        ([1, float("nan")], {}, "lengths are float64"),
        ([1.0, 2.0], {}, "lengths are float64"),
        ([True], {}, "lengths are bool"),
        ([[1, 2]], {}, r"shape \[1, 2\]"),
        ([[1], [2, 3]], {}, "must be a list of whole numbers"),
        (["a"], {}, "whole numbers"),
        ("missing.npy", {}, "missing.npy cannot be read"),
        ([1], {"window": 0}, "window=0"),
        ([1], {"window": 1.5}, "window=1.5"),
    ],
)
@pytest.mark.parametrize("kind", [TokenBudgetBatching, SequencePacking])
def test_lengths_that_cannot_be_used_are_refused(kind: Any, lengths: Any, options: Any, message: str) -> None:
    """The error names the sample, its length and the next step."""
    with pytest.raises(ConfigError, match=message):
        kind(lengths, 8, **options)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    """Neither text nor a pickle is read."""
    (tmp_path / "lengths.npy").write_text("1 2 3")
    with pytest.raises(ConfigError, match=r"lengths\.npy cannot be read"):
        SequencePacking(tmp_path / "lengths.npy", 8)


def test_settings_that_cannot_be_used_are_refused() -> None:
    """Budgets, multiples and methods are named with their value."""
    with pytest.raises(ConfigError, match="max_tokens=0"):
        SequencePacking([1], 0)
    with pytest.raises(ConfigError, match="worst-fit"):
        SequencePacking([1], 8, method="worst-fit")
    with pytest.raises(ConfigError, match="max_samples=0"):
        TokenBudgetBatching([1], 8, max_samples=0)
    with pytest.raises(ConfigError, match="length 7, padded to a multiple of 5, and max_tokens is 8"):
        TokenBudgetBatching([7], 8, multiple_of=5)


def test_lengths_of_another_data_set_are_refused() -> None:
    """As many lengths as there are samples, no more and no less; of a mixture, as its streams have."""
    for order in (Shuffled(3), Sequential(5), Mixture({"a": 5}, epoch_size=4)):
        with pytest.raises(ConfigError, match=f"4 samples and the data set has {order.num_samples}"):
            SequencePacking([1, 2, 3, 4], 8).plan(order)
