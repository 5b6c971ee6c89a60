"""The sampler that says what it will yield."""

import itertools

import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from streaming.lookahead import HORIZON, LookAhead


class Listener:
    """Records what a sampler says."""

    def __init__(self):
        self.announced = []
        self.forgotten = 0
        self.epochs = []

    def wrap(self, sampler):
        return LookAhead(
            sampler,
            lambda indices, order: self.announced.extend(indices),
            lambda order: setattr(self, "forgotten", self.forgotten + 1),
            self.epochs.append,
        )


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


def test_an_endless_sampler_is_drawn_within_the_horizon():
    """No more is drawn than the horizon beyond what was yielded."""
    listener = Listener()
    taken = list(itertools.islice(listener.wrap(itertools.count()), 3 * HORIZON))
    assert taken == list(range(3 * HORIZON))
    assert len(listener.announced) <= 4 * HORIZON


def test_leaving_early_forgets_the_rest():
    """What was announced and will not be yielded is taken back; a full epoch takes nothing back at its end."""
    listener = Listener()
    iterator = iter(listener.wrap(range(10)))
    next(iterator)
    before = listener.forgotten
    iterator.close()
    assert listener.forgotten == before + 1
    list(listener.wrap(range(3)))
    assert listener.forgotten == before + 2  # at its beginning only


def test_epochs_are_counted_and_can_be_set():
    """Each iteration is an epoch; set_epoch reaches the wrapped sampler and the next iteration."""

    class Sampler(list):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    listener, inner = Listener(), Sampler([1])
    sampler = listener.wrap(inner)
    list(sampler)
    list(sampler)
    sampler.set_epoch(7)
    list(sampler)
    assert listener.epochs == [0, 1, 7]
    assert inner.epoch == 7
