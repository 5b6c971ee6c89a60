"""The sampler that says what it will yield."""

import itertools
from typing import Any

import torch
from torch.utils.data import BatchSampler, ConcatDataset, Dataset, RandomSampler, SequentialSampler, Subset

from streaming.prefetch.announce_window import HORIZON
from streaming.prefetch.lookahead import LookAhead


class Listener(Dataset[Any]):
    """A data set that records announcements, and by default counts each announced sample as read."""

    def __init__(self, *, draws=False, share=1.0):
        self.draws = draws
        self.share = share
        self.announced = []
        self.forgotten = 0
        self.taken = 0

    def __len__(self):
        return 1000

    @property
    def reads(self):
        return int(self.taken * self.share)

    def announce(self, indices, order):
        self.announced.extend(indices)

    def forget(self, order):
        self.forgotten += 1

    def wrap(self, sampler):
        return LookAhead(sampler, self)

    def take(self, sampler):
        """Read what the sampler yields, as a loader does."""
        for item in self.wrap(sampler):
            yield item
            self.taken += len(item) if isinstance(item, list) else 1


def test_order_is_the_samplers_own_and_announced_first():
    """Every index is announced before it is yielded, in the same order."""
    listener = Listener()
    sampler = listener.wrap(range(10))
    seen = []
    for index in sampler:
        seen.append(index)
        assert listener.announced[: len(seen)] == seen
    assert seen == list(range(10)) == listener.announced
    assert len(sampler) == 10


def test_random_order_and_random_state_stay_those_of_torch():
    """Wrapping a RandomSampler changes neither its order nor what is drawn after it."""

    def draw(wrap):
        torch.manual_seed(7)
        order = list(wrap(RandomSampler(range(100))))
        return order, torch.rand(1).item()

    assert draw(Listener().wrap) == draw(lambda sampler: sampler)


def test_batches_are_announced_index_by_index():
    """A batch sampler keeps its batches and its attributes."""
    listener = Listener()
    sampler = listener.wrap(BatchSampler(SequentialSampler(range(5)), 2, drop_last=False))
    assert list(sampler) == [[0, 1], [2, 3], [4]]
    assert listener.announced == [0, 1, 2, 3, 4]
    assert (len(sampler), sampler.batch_size, sampler.drop_last) == (3, 2, False)


def test_attributes_are_set_on_the_wrapped_sampler():
    """A generator that a framework sets, to have one order on all ranks, is set on the wrapped sampler."""
    inner = RandomSampler(range(100))
    sampler = Listener().wrap(inner)
    sampler.generator = torch.Generator().manual_seed(3)
    assert list(sampler) == list(RandomSampler(range(100), generator=torch.Generator().manual_seed(3)))
    assert inner.generator is sampler.generator


def test_an_endless_sampler_is_drawn_within_the_horizon():
    """At most the horizon is drawn beyond what was yielded, and all of it once every sample proves to be read."""
    listener = Listener()
    taken = list(itertools.islice(listener.take(itertools.count()), 3 * HORIZON))
    assert taken == list(range(3 * HORIZON))
    assert 3.5 * HORIZON <= len(listener.announced) <= 4 * HORIZON


def test_leaving_early_forgets_the_rest():
    """An order that is left early is forgotten at once, a complete one when the next begins."""
    listener = Listener()
    sampler = listener.wrap(range(10))
    iterator = iter(sampler)
    next(iterator)
    assert listener.forgotten == 0
    iterator.close()
    assert listener.forgotten == 1
    for _ in range(3):
        list(sampler)
    assert listener.forgotten == 3


def test_epochs_are_counted_and_can_be_set():
    """Each iteration is an epoch, also after an early exit; set_epoch sets the wrapped sampler and the next one."""

    class Sampler(list):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    listener, inner = Listener(draws=True), Sampler([1, 2])
    sampler = listener.wrap(inner)
    epochs = [{index.epoch for index in sampler}, {next(iter(sampler)).epoch}]
    sampler.set_epoch(7)
    epochs += [{index.epoch for index in sampler} for _ in range(2)]
    assert epochs == [{0}, {1}, {7}, {8}]
    assert inner.epoch == 7


def test_concurrent_passes_have_epochs_and_announcements_of_their_own():
    """Leaving one pass forgets only its own announcements."""
    orders = []

    class Orders(Listener):
        def announce(self, indices, order):
            orders.append(order)

        def forget(self, order):
            orders.remove(order)

    sampler = Orders(draws=True).wrap(range(5))
    first, second = iter(sampler), iter(sampler)
    assert [next(first).epoch, next(second).epoch, next(first).epoch] == [0, 1, 0]
    assert len(set(map(id, orders))) == 2
    kept = orders[1]
    first.close()
    assert orders == [kept]


def test_the_epoch_is_in_the_indices_only_where_it_is_needed():
    """Plain indices are unchanged; those with an epoch are equal to them."""
    plain, drawing = Listener(), Listener(draws=True)
    assert {type(index) for index in plain.wrap(range(3))} == {int}
    assert list(drawing.wrap(BatchSampler(range(3), 2, drop_last=False))) == [[0, 1], [2]]


def test_indices_of_torchs_wrappers_are_announced_as_those_of_the_data_set_inside():
    """The sampler refers to the outer data set; the other data sets inside get no announcements."""
    listener, other = Listener(), Listener()
    subset = Subset(listener, [5, 3, 900])
    list(listener.wrap(SequentialSampler(subset)))
    assert listener.announced == [5, 3, 900]
    list(
        listener.wrap(
            BatchSampler(SequentialSampler(ConcatDataset([subset, Subset(other, [1]), subset])), 4, drop_last=False)
        )
    )
    assert listener.announced[3:] == [5, 3, 900, 5, 3, 900]
    assert other.announced == []


def test_a_filter_behind_the_sampler_ends_the_announcements(caplog):
    """If a loader reads half of what is drawn, one warning is logged and what was announced is forgotten."""
    listener = Listener(share=0.5)
    batches = BatchSampler(range(2000), 4, drop_last=False)
    drawn = [index for batch in listener.take(batches) for index in batch]
    assert drawn == list(range(2000))
    assert len(listener.announced) <= 128
    assert listener.forgotten == 1
    [record] = [record for record in caplog.records if "look_ahead_stopped" in record.getMessage()]
    assert record.levelname == "WARNING"


def test_little_is_announced_before_anything_is_read():
    """A loader that draws the whole order first, to divide it, costs at most the first announcements."""
    listener = Listener()
    assert list(listener.wrap(range(1000))) == list(range(1000))
    assert listener.announced == list(range(64))


def test_workers_that_read_late_are_not_a_filter(caplog):
    """Many batches may be drawn before the first is read, and they may be read in steps of any size."""
    for outstanding, step in ((1, 1), (16, 1), (16, 7), (64, 32)):
        listener = Listener()
        drawn = 0
        for number, batch in enumerate(listener.wrap(BatchSampler(range(20_000), 8, drop_last=False))):
            drawn += len(batch)
            if number >= outstanding and number % step == 0:
                listener.taken = drawn - 8 * outstanding
        assert len(listener.announced) > 19_000
    assert caplog.records == []


def test_passes_that_are_left_early_are_not_a_filter(caplog):
    """Samples that were drawn and not read when the trainer left a pass do not count in the next pass."""
    listener = Listener()
    sampler = listener.wrap(BatchSampler(range(8000), 8, drop_last=False))
    for _ in range(10):
        for number, _batch in enumerate(sampler):
            if number >= 16:
                listener.taken += 8
            if number == 24:
                break
    assert caplog.records == []
