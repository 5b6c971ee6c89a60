"""The message for a file that `torch.load(weights_only=True)` refused: all names it would need, or torch's reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

from streaming.codecs.base import Buffer, open_buffer
from streaming.codecs.pt_numpy import dtype_classes

__all__ = ["refusal_message"]

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_BLOCKED = re.compile(r"GLOBAL ([\w.]+) whose module \w+ is blocked")
_REASON = "WeightsUnpickler error: "
_ADVICE = ("Weights only load failed", "(1)", "(2)", "Check the documentation")  # torch's advice to turn the check off


def refusal_message(text: str, data: Buffer, pickles: Sequence[bytes]) -> str:
    """Return the message for a file that torch refused with `text`; `pickles` are those in it, if known."""
    blocked = _BLOCKED.search(text)
    if blocked:
        return f"would import {blocked[1]}, which weights_only loading never allows (nothing of it ran)"
    names = _names(data, pickles) or sorted(set(_GLOBAL.findall(text)))
    if not names:
        return f"has a pickle that torch's weights_only loading refuses (nothing of it ran): {_reason(text)}"
    listed = ", ".join(names)
    return (
        f"would import {listed}, which weights_only loading refuses (nothing of it ran); if you trust the file, "
        f"call torch.serialization.add_safe_globals([{listed}]) in the process that reads"
    )


def _names(data: Buffer, pickles: Sequence[bytes]) -> list[str]:
    """Return the names that torch does not allow at present, with the classes of NumPy types."""
    import torch

    if not pickles:
        return []
    names = set(torch.serialization.get_unsafe_globals_in_checkpoint(open_buffer(data)))
    for content in pickles:
        names |= dtype_classes(content)
    return sorted(names - {_name_of(allowed) for allowed in torch.serialization.get_safe_globals()})


def _name_of(allowed: object) -> str:
    if isinstance(allowed, tuple):
        return str(allowed[1])
    return f"{getattr(allowed, '__module__', '')}.{getattr(allowed, '__qualname__', '')}"


def _reason(text: str) -> str:
    """Return torch's reason, without its advice to load the file unchecked."""
    lines = [line.strip() for line in text.rpartition(_REASON)[2].splitlines()]
    return next((line for line in lines if line and not line.startswith(_ADVICE)), "no reason is given")
