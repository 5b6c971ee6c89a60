"""Arguments with which a framework makes a loader again from the user's loader.

Lightning does so for `predict`, to know which samples were in a batch, and for `overfit_batches`, to have the same ones
in each epoch: it calls the class with a `sampler` or `batch_sampler` and otherwise the original arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.utils.data import SequentialSampler

from streaming.errors import ConfigError
from streaming.loader.sampler import LoaderSampler

__all__ = ["Given", "given_samplers"]

_SETTINGS = {
    "lightning": "in Lightning, set use_distributed_sampler=False",
    "pytorch_lightning": "in Lightning, set use_distributed_sampler=False",
    "accelerate": "in Accelerate, give the loader itself to prepare()",
    "transformers": "in the Trainer, return the loader from get_train_dataloader()",
}
"""`{package of the sampler: setting that keeps the framework from passing one}`."""


class Given(NamedTuple):
    """Meaning of the arguments `sampler` and `batch_sampler`.

    Attributes:
        units: the sampler of the loader that is made again; None: a new one.
        batches: the batch sampler over `units` for torch's DataLoader; None: torch's own.
        is_sequential: whether samples are read from first to last, whatever the other arguments are.
    """

    units: LoaderSampler | None = None
    batches: Any = None
    is_sequential: bool = False


def given_samplers(options: Mapping[str, Any], *, has_batching: bool) -> Given:
    """Return what a framework requests with `sampler` or `batch_sampler`.

    Args:
        options: the arguments of the loader.
        has_batching: whether the loader groups samples by their lengths.

    Raises:
        ConfigError: the sampler has another order than the loader; names the framework's setting, if known.
    """
    batches, sampler = options.get("batch_sampler"), options.get("sampler")
    if batches is not None:
        units = _inside(batches)
        if units is None:
            raise _refused("batch_sampler", batches)
        return Given(units, batches)
    if sampler is None:
        return Given()
    if type(sampler) is SequentialSampler:
        if has_batching:
            raise ConfigError(
                "a StreamingDataLoader with batching takes no SequentialSampler, as its batches differ from epoch to "
                "epoch: in Lightning, use limit_train_batches instead of overfit_batches"
            )
        return Given(is_sequential=True)
    units = _inside(sampler)
    if units is None or units is not sampler:
        raise _refused("sampler", sampler)
    return Given(units)


def _inside(sampler: Any) -> LoaderSampler | None:
    """Return the `LoaderSampler` inside a wrapping sampler, if there is one."""
    while sampler is not None and not isinstance(sampler, LoaderSampler):
        sampler = getattr(sampler, "sampler", None) or getattr(sampler, "_batch_sampler", None)
    return sampler


def _refused(name: str, sampler: Any) -> ConfigError:
    setting = _SETTINGS.get(type(sampler).__module__.split(".")[0])
    next_step = f"{setting}, or use" if setting else "leave it out, or use"
    return ConfigError(
        f"{name} ({type(sampler).__name__}) is passed to a StreamingDataLoader, which has its own order and "
        f"shards it among the ranks: {next_step} torch's DataLoader with adapter.look_ahead(sampler)"
    )
