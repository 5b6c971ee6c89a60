from __future__ import annotations

import pytest
import torch

from streaming.cli.demo.features import (
    FEATURES,
    KINDS,
    PADDING,
    PAUSES,
    VOCABULARY,
    event_features,
    kind_of,
    pause_bucket,
)
from streaming.cli.demo.model import PageModel


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": 4}, 4),
        ({"type": 3, "data": {"source": 0}}, 8),
        ({"type": 3, "data": {"source": 16}}, 24),
        ({"type": 3, "data": {"source": 17}}, KINDS - 1),
        ({"type": 3}, KINDS - 1),
        ({"type": 8}, KINDS - 1),
        ({"type": "3"}, KINDS - 1),
        ({}, KINDS - 1),
    ],
)
def test_kind_of_an_event(event: dict[str, object], kind: int) -> None:
    """A kind is the type, or 8 + source of an incremental event, and the last kind is for everything unknown."""
    assert kind_of(event) == kind


@pytest.mark.parametrize(("pause", "bucket"), [(-5, 0), (0, 0), (0.5, 0), (1, 1), (2, 2), (1023, 10), (1e12, 15)])
def test_pause_buckets(pause: float, bucket: int) -> None:
    """Pauses fall into powers of two milliseconds, with an open last bucket."""
    assert pause_bucket(pause) == bucket


def test_features_of_a_recording() -> None:
    """Tokens carry kind and pause in order, and the shares of kinds and of pauses sum to one each."""
    events = [{"type": 4, "timestamp": 1000}, {"type": 3, "data": {"source": 1}, "timestamp": 1002}]
    sample = event_features({"events": events, "label": {"page_id": 7}})
    assert sample["page"] == 7
    assert sample["tokens"].tolist() == [1 + 4 * PAUSES, 1 + 9 * PAUSES + 2]
    features = sample["features"]
    assert (features.dtype, features.shape) == (torch.float32, (FEATURES,))
    assert float(features[:KINDS].sum()) == pytest.approx(1) == float(features[KINDS : KINDS + PAUSES].sum())


def test_recording_without_events() -> None:
    """An empty recording has no tokens and zero features."""
    sample = event_features({"events": [], "label": {"page_id": 0}})
    assert sample["tokens"].numel() == 0
    assert float(sample["features"].abs().sum()) == 0


def test_model_ignores_padding() -> None:
    """The logits of a sequence do not depend on how far it was padded."""
    torch.manual_seed(0)
    model = PageModel(pages=3)
    features = torch.rand(2, FEATURES)
    tokens = torch.randint(1, VOCABULARY, (2, 5))
    padded = torch.nn.functional.pad(tokens, (0, 4), value=PADDING)
    assert model(features, tokens).shape == (2, 3)
    torch.testing.assert_close(model(features, tokens), model(features, padded))
