"""Interface by which Accelerate accepts a loader that shards, places and saves its batches on its own."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Prepared"]


class Prepared:
    """Base of such loaders: `prepare` returns them unchanged, `save_state` and `load_state` include them.

    Accelerate would otherwise make another loader over the same data set, which shards the batches a second time and
    requests one batch more than the trainer received. The names are those of Accelerate's `prepare_data_loader`,
    `save_accelerator_state` and `DataLoaderStateMixin`.

    Attributes:
        end_of_dataloader: whether the last batch returned ends its epoch: gradients are not accumulated beyond it.
        remainder: number of rows in the last batch, gathered from all ranks, that are not repeated; 0 means all, -1
            that the repeated ones are not at the end.
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    end_of_dataloader = False
    remainder = -1

    def _begin(self, remainder: int) -> None:
        """Make this the loader from which Accelerate reads `end_of_dataloader`."""
        self.end_of_dataloader, self.remainder = False, remainder
        gradients = _gradient_state()
        if gradients is not None:
            gradients._add_dataloader(self)

    def _end(self) -> None:
        gradients = _gradient_state()
        if gradients is not None:
            gradients._remove_dataloader(self)


def _gradient_state() -> Any | None:
    """Return Accelerate's state of the loaders that are being read, or None without an `Accelerator`."""
    module = sys.modules.get("accelerate.state")
    state = getattr(module, "GradientState", None)
    return state() if state is not None and state._shared_state else None
