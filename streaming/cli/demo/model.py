"""A model small enough for a demo: it predicts the kind of page of a recording."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streaming.cli.demo.features import FEATURES, PADDING, VOCABULARY

__all__ = ["PageModel"]


class PageModel(nn.Module):
    """Mean of token embeddings and the event features, then one hidden layer.

    Args:
        pages: number of kinds of page.
        width: size of an embedding and of the hidden layer.
    """

    def __init__(self, pages: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=PADDING)
        self.hidden = nn.Linear(width + FEATURES, width)
        self.output = nn.Linear(width, pages)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return logits [batch, pages] of features [batch, FEATURES] and tokens [batch, time], padded with PADDING."""
        events = (tokens != PADDING).sum(dim=1, keepdim=True).clamp(min=1)
        mean = self.embedding(tokens).sum(dim=1) / events
        logits: Tensor = self.output(torch.relu(self.hidden(torch.cat([mean, features], dim=1))))
        return logits
