"""The same colour for the same thing, on every dashboard and in every picture."""

from __future__ import annotations

from typing import Final

from streaming.telemetry.counters import OUTCOMES
from streaming.telemetry.stages import STAGES

__all__ = ["BAD", "BREAKER", "BUSY", "GOOD", "LIMIT", "OUTCOME", "PALETTE", "STAGE", "WARN"]

GOOD: Final = "#73BF69"
WARN: Final = "#FADE2A"
BAD: Final = "#F2495C"
LIMIT: Final = "#C4162A"
BUSY: Final = "busy"

# Busy is the one green: what is not green is time that the accelerator lost. Neighbours in the order of the stages
# differ in hue and in lightness, so that a stack can be read in grey too.
STAGE: Final[dict[str, str]] = dict(
    zip(
        (*STAGES, BUSY),
        (
            "#3274D9",
            "#8AB8FF",
            "#8F3BB8",
            "#FF9830",
            "#FFF899",
            "#E02F44",
            "#FF7EB6",
            "#37A2A2",
            "#8E8E8E",
            GOOD,
        ),
        strict=True,
    )
)
"""Colour of each stage that the trainer's time goes to (see `streaming.telemetry.stages`), and of `BUSY`."""

OUTCOME: Final[dict[str, str]] = dict(
    zip(
        OUTCOMES,
        (
            GOOD,
            "#5794F2",
            "#C4162A",
            "#FF9830",
            "#FADE2A",
            "#F2495C",
            "#B877D9",
            "#8F3BB8",
            "#FF7EB6",
            "#8E8E8E",
            "#E0B400",
        ),
        strict=True,
    )
)
"""Outcomes of a request."""

BREAKER: Final = {0: ("closed", GOOD), 1: ("half-open", WARN), 2: ("open", BAD)}
"""The numbers that panels give to the states of a breaker, with their texts."""

PALETTE: Final = (
    "#73BF69",
    "#F2CC0C",
    "#8AB8FF",
    "#FF780A",
    "#F2495C",
    "#5794F2",
    "#B877D9",
    "#705DA0",
    "#37872D",
    "#FADE2A",
)
"""For names that are not known beforehand: Grafana's classic palette, in its order."""
