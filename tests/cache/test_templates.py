"""A sample that is encoded by the template of its kind is stored as one that is encoded on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.cache import flat
from streaming.cache.flat import Encoded
from streaming.cache.leaves import Unsupported
from streaming.cache.templates import Templates
from tests.cache.test_flat import arrays, same, samples, tensors

numbers = st.integers() | st.integers(-(2**31), 2**31 - 1) | st.floats()
leaves = numbers | tensors() | arrays | st.binary(min_size=flat.LEAF_BYTES, max_size=flat.LEAF_BYTES + 3) | samples
dicts = st.dictionaries(st.text(max_size=8) | st.sampled_from(["data", "idx"]), leaves, max_size=4)


def learned(sample: Any) -> Templates:
    """Return templates that have seen samples of this kind."""
    templates = Templates()
    for _ in range(2):
        assert templates.encode(sample) is None
    return templates


def check(encoded: Encoded, sample: Any) -> None:
    """The payload has the size, the kind and the place of each array of the general path, and decodes to the sample."""
    expected = flat.encode(sample)
    payload = b"".join(encoded.parts)
    assert len(payload) == encoded.nbytes
    assert encoded[1:] == expected[1:]
    assert same(flat.decode(payload), sample)


@settings(deadline=None, max_examples=300)
@given(samples | dicts, st.data())
def test_a_template_stores_what_the_general_path_stores(sample: Any, data: st.DataObject) -> None:
    """For any nest, and for one of the same kind with other numbers, the result is equal or left to `flat.encode`."""
    templates = learned(sample)
    encoded = templates.encode(sample)
    if encoded is not None:
        check(encoded, sample)
    if type(sample) is dict:
        other = {key: data.draw(numbers) if type(value) in (int, float) else value for key, value in sample.items()}
        encoded = templates.encode(other)
        if encoded is not None:
            check(encoded, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"data": torch.full((25,), n), "idx": n},
        lambda n: {"data": np.full((4, 5), n, np.float32), "idx": n, "weight": n / 7},
        lambda n: {"image": bytes([n % 256]) * 5000, "label": -n, "idx": n},
        lambda n: {"small": torch.full((9,), n), "large": torch.full((90, 100), n), "mask": torch.arange(70) > n},
    ],
    ids=["tensor", "array", "bytes", "large"],
)
def test_usual_samples_use_their_template(make: Any) -> None:
    """From the third sample of a kind on, with all of its numbers changed, none takes the general path."""
    templates = learned(make(0))
    for number in (1, -1, 77, 2**31 - 1):
        sample = make(number)
        encoded = templates.encode(sample)
        assert encoded is not None
        check(encoded, sample)


def test_what_differs_from_the_first_sample_takes_the_general_path() -> None:
    """Strided and conjugated tensors, other shapes, and numbers wider than 32 bits are left to it; so are gradients."""
    templates = learned({"x": torch.zeros(4, 4, dtype=torch.complex64).real.contiguous(), "idx": 1})
    square = torch.arange(16.0).reshape(4, 4)
    for sample in ({"x": square.T, "idx": 1}, {"x": square[:2], "idx": 1}, {"x": square, "idx": 2**31}):
        assert templates.encode(sample) is None
    trained = {"x": square.clone().requires_grad_(), "idx": 1}
    assert templates.encode(trained) is None
    with pytest.raises(Unsupported):
        flat.encode(trained)
    templates = learned({"x": torch.zeros(3, dtype=torch.complex64)})
    assert templates.encode({"x": torch.ones(3, dtype=torch.complex64).conj()}) is None


def test_many_kinds_are_forgotten() -> None:
    """Samples whose shapes all differ keep a bounded number of templates, and are encoded all the same."""
    templates = Templates()
    for size in range(1, 3000):
        templates.encode({"x": np.zeros(size)})
    sample = {"x": np.zeros(2999)}
    templates.encode(sample)
    encoded = templates.encode(sample)
    assert encoded is not None
    check(encoded, sample)
    assert len(templates._known) <= 1025
