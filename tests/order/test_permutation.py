"""The order of an epoch is a permutation, has an inverse, and looks like chance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.order.permutation import ALGORITHM, Permutation

GOLDEN_10 = [9, 7, 4, 1, 3, 0, 6, 8, 5, 2]
GOLDEN_BILLION = [805402, 979656609, 926216619]
SEEDS = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)
@given(st.integers(1, 3000), SEEDS, SEEDS)
def test_every_sample_comes_once(n: int, seed: int, epoch: int) -> None:
    """Whatever the size: a bijection of range(n), undone by its inverse."""
    order = Permutation(n, seed, epoch)
    samples = order(np.arange(n))
    assert np.array_equal(np.sort(samples), np.arange(n))
    assert np.array_equal(order.inverse(samples), np.arange(n))


@settings(deadline=None)
@given(st.integers(1, 2**62), SEEDS, st.data())
def test_large_orders_are_undone(n: int, seed: int, data: st.DataObject) -> None:
    """Any size up to 2**62, one number at a time as several at once, in any shape."""
    order = Permutation(n, seed)
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    samples = [order(position) for position in positions]
    assert all(0 <= sample < n for sample in samples)
    assert [order.inverse(sample) for sample in samples] == positions
    assert order(np.array([positions])).tolist() == [samples]


def test_the_order_stays_what_it_is() -> None:
    """A saved state means the same order in every release: a change needs a new ALGORITHM."""
    assert ALGORITHM == 1
    assert Permutation(10, 0, 0)(np.arange(10)).tolist() == GOLDEN_10
    assert Permutation(10**9, 42, 3)(np.array([0, 1, 10**9 - 1])).tolist() == GOLDEN_BILLION


def test_seed_epoch_and_size_each_give_another_order() -> None:
    """No two of them share their samples' places beyond chance."""
    positions = np.arange(1000)
    orders = [Permutation(1000, seed, epoch)(positions) for seed in range(4) for epoch in range(4)]
    orders.append(Permutation(1001, 0, 0)(positions))
    for one in range(len(orders)):
        for other in range(one):
            assert (orders[one] == orders[other]).sum() < 12


def test_places_are_evenly_spread() -> None:
    """Chi-square over (sample, place) in 20 x 20 cells, for sizes around powers of two and others."""
    for n in (1000, 1024, 1025, 4096, 5003):
        counts = np.zeros((20, 20))
        for epoch in range(200):
            places = Permutation(n, 5, epoch)(np.arange(n)) * 20 // n
            np.add.at(counts, (np.arange(n) * 20 // n, places), 1)
        expected = counts.sum() / counts.size
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert 280 < chi_square < 450, n  # 361 degrees of freedom: mean 361, deviation 27


def test_neighbours_are_not_related() -> None:
    """Serial correlation at lags 1 to 5 is that of chance: within 4.5 deviations of 0."""
    for n in (1009, 2**16 + 1, 10**9):
        samples = Permutation(n, 11)(np.arange(min(n, 60_000))).astype(float)
        for lag in range(1, 6):
            correlation = np.corrcoef(samples[:-lag], samples[lag:])[0, 1]
            assert abs(correlation) < 4.5 / np.sqrt(len(samples)), (n, lag)


def test_neighbours_of_one_epoch_are_seldom_neighbours_in_the_next() -> None:
    """About two pairs a pair of epochs, as for independent shuffles (Poisson with mean 2)."""
    n, epochs = 2000, 60
    places = [Permutation(n, 3, epoch).inverse(np.arange(n)) for epoch in range(epochs)]
    kept = 0
    for before, after in pairwise(places):
        by_place = after[np.argsort(before)]
        kept += int((np.abs(np.diff(by_place)) == 1).sum())
    assert abs(kept - 2 * (epochs - 1)) < 5 * np.sqrt(2 * (epochs - 1))


def test_all_orders_of_a_few_samples_come() -> None:
    """The 24 orders of four samples come about equally often over 4,800 epochs."""
    seen: dict[tuple[int, ...], int] = {}
    for epoch in range(4800):
        order = tuple(Permutation(4, 0, epoch)(np.arange(4)).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    assert min(seen.values()) > 100
    assert max(seen.values()) < 300


@pytest.mark.parametrize("n", [-1, 2**62 + 1])
def test_sizes_out_of_range_are_refused(n: int) -> None:
    """A size that cannot be is named."""
    with pytest.raises(ValueError, match=f"n={n} is out of range"):
        Permutation(n)


def test_keys_out_of_range_are_refused() -> None:
    """Seeds and epochs are 64-bit integers."""
    with pytest.raises(ValueError, match="seed="):
        Permutation(1, seed=2**63)
    with pytest.raises(ValueError, match="epoch="):
        Permutation(1, epoch=-(2**63) - 1)


def test_numbers_out_of_range_are_refused() -> None:
    """Positions and samples below 0, of n or more, or that are not integers; an empty order has none."""
    order = Permutation(5)
    for numbers in (np.array([0, 5]), np.array([-1]), np.array([0.5]), np.array(["0"])):
        with pytest.raises(IndexError, match="n - 1 = 4"):
            order(numbers)
        with pytest.raises(IndexError):
            order.inverse(numbers)
    with pytest.raises(IndexError):
        order(5)
    assert Permutation(0)(np.arange(0)).tolist() == []
    with pytest.raises(IndexError):
        Permutation(0)(0)
