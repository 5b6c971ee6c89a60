"""What Accelerate asks of a loader that divides, places and saves its batches by itself."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Prepared"]


class Prepared:
    """A base for such loaders: `prepare` takes them as they are, `save_state` and `load_state` include them.

    It would otherwise make another loader of the same data set, which divides the batches among the ranks a second
    time and asks for one batch more than the trainer has got. The names are those of Accelerate's
    `prepare_data_loader`, `save_accelerator_state` and `DataLoaderStateMixin`.

    Attributes:
        end_of_dataloader: whether the batch given last ends its epoch: gradients are not accumulated beyond it.
        remainder: how many rows of the last batch, gathered from all ranks, are not repeated; 0 for all, -1 where the
            repeated ones do not come last.
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    end_of_dataloader = False
    remainder = -1

    def _begin(self, remainder: int) -> None:
        """Be the loader that Accelerate asks for the end."""
        self.end_of_dataloader, self.remainder = False, remainder
        gradients = _gradient_state()
        if gradients is not None:
            gradients._add_dataloader(self)

    def _end(self) -> None:
        gradients = _gradient_state()
        if gradients is not None:
            gradients._remove_dataloader(self)


def _gradient_state() -> Any | None:
    """Accelerate's account of the loaders that are being read, where the trainer has made an `Accelerator`."""
    module = sys.modules.get("accelerate.state")
    state = getattr(module, "GradientState", None)
    return state() if state is not None and state._shared_state else None
