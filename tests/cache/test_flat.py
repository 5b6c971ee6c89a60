"""Samples round-trip through flat bytes, and the decoded ones belong to the reader."""

from __future__ import annotations

import marshal
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streaming.cache import flat

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

TORCH_DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64,
    torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=20)
    | st.text(st.characters(), max_size=20)
)
keys = st.text(max_size=8) | st.integers() | st.tuples(st.integers(), st.text(max_size=3))
dtypes = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.datetime64_dtypes()
    | hnp.array_dtypes()
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(TORCH_DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    nbytes = math.prod(shape) * dtype.itemsize
    raw = torch.frombuffer(bytearray(draw(st.binary(min_size=nbytes, max_size=nbytes)) or b"0" * 16), dtype=torch.uint8)
    if dtype == torch.bool:
        raw = raw % 2
    return raw[:nbytes].clone().view(dtype).reshape(shape)


samples = st.recursive(
    scalars | arrays | tensors() | arrays.map(lambda array: array.ravel()[0] if array.size else array),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def payload(sample: Any) -> bytes:
    encoded = flat.encode(sample)
    joined = b"".join(encoded.parts)
    assert len(joined) == encoded.nbytes
    return joined


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


@settings(deadline=None, max_examples=300)
@given(samples)
def test_any_nest_round_trips(sample: Any) -> None:
    """The decoded sample equals the encoded one in type, order, shape, dtype and every bit."""
    assert same(flat.decode(payload(sample)), sample)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (200, 300)])
def test_every_dtype_small_and_large(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Each torch dtype round-trips 0-d, empty, small (shared copy) and large (own allocation)."""
    tensor = (torch.arange(math.prod(shape)) % 2).reshape(shape).to(dtype)
    assert same(flat.decode(payload({"x": tensor})), {"x": tensor})


def test_decoded_arrays_are_contiguous() -> None:
    """Transposed, channels_last, expanded, conjugated and Fortran-ordered values are equal, and contiguous."""
    x = torch.randn(2, 3, 4, 5)
    sample: dict[str, Any] = {
        "t": x.transpose(0, 3),
        "cl": x.to(memory_format=torch.channels_last),
        "e": torch.ones(1, 4).expand(3, 4),
        "c": torch.randn(3, dtype=torch.complex64).conj(),
        "n": torch.randn(3, dtype=torch.complex64).conj().imag,
        "f": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "r": np.arange(10)[::-2],
        "be": np.arange(4, dtype=">i4"),
    }
    back = flat.decode(payload(sample))
    for name, value in sample.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(back[name], value)
            assert back[name].is_contiguous()
        else:
            assert np.array_equal(back[name], value)
            assert back[name].dtype == value.dtype
            assert back[name].flags.c_contiguous


def test_views_are_compacted() -> None:
    """A row of a large tensor costs one row, not the storage under it."""
    huge = torch.zeros(1000, 1000)
    assert flat.encode({"row": huge[3], "column": huge[:, 3]}).nbytes < 2 * 4000 + 1000


def test_decoded_values_are_the_readers_own() -> None:
    """Writing into a decoded sample changes neither the payload nor the next decoded one."""
    sample = {"small": torch.zeros(10), "large": torch.zeros(100_000), "n": np.zeros(4), "list": [1]}
    data = payload(sample)
    before = bytes(data)
    first = flat.decode(memoryview(data))
    first["small"].fill_(1)
    first["large"].fill_(1)
    first["n"][:] = 1
    first["list"].append(2)
    assert bytes(data) == before
    assert same(flat.decode(data), sample)


def test_the_header_has_the_places_of_the_bytes() -> None:
    """The place of each array is aligned to 64, so that a batch is copied without decoding its samples."""
    sample = {"x": torch.arange(10), "deep": [{"y": np.arange(9000.0)}], "label": 3}
    data = payload(sample)
    skeleton, leaves, _, _ = marshal.loads(data)
    assert skeleton == {"x": None, "deep": [{"y": None}], "label": 3}
    by_path = {path: place for path, _, *place in leaves}
    assert set(by_path) == {"x", ("deep", 0, "y")}
    shape, start, nbytes = by_path["deep", 0, "y"]
    assert start % 64 == 0
    assert shape == (9000,)
    assert data[start : start + nbytes] == np.arange(9000.0).tobytes()


def test_kinds_distinguish_structures() -> None:
    """Samples of one structure have one kind for all shapes; other dtypes or places have another."""
    kind = flat.encode({"x": torch.zeros(300)}).kind
    assert flat.encode({"x": torch.zeros(999)}).kind == kind
    assert flat.encode({"x": torch.zeros(300).half()}).kind != kind
    assert flat.encode({"y": torch.zeros(300)}).kind != kind
    assert flat.encode({"y": "text"}).kind == flat.encode({"y": 4}).kind != flat.encode({"z": 4}).kind


def test_many_leaves_and_wide_offsets() -> None:
    """A sample of thousands of arrays, small and large mixed, keeps each at its place."""
    sample = [torch.full((n % 50,), n) for n in range(3000)] + [torch.full((9000,), 1.5), np.full(7, 2)]
    assert same(flat.decode(payload(sample)), sample)


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


class Subclass(torch.Tensor):
    """A tensor with a type of its own."""


cyclic: list[Any] = [torch.zeros(2)]
cyclic.append(cyclic)
shared: Any = [torch.zeros(1)]
for _ in range(40):
    shared = [shared, shared]


@pytest.mark.parametrize(
    "sample",
    [
        {1, 2}, frozenset(), object(), bytearray(b"x"), memoryview(b"x"), 1j, OrderedDict(a=1),
        {"x": [{"y": object()}]},
        {frozenset(): 1}, {(1, object()): 1}, {np.int64(3): 1}, np.array([object()]), np.ma.masked_array([1]),
        np.array(["a"], dtype=np.dtypes.StringDType()), torch.zeros(2, requires_grad=True),
        torch.nn.Parameter(torch.zeros(2)), torch.zeros(2).as_subclass(Subclass), torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.uint8).view(torch.bits8),
        nested(3000, 1), nested(1500, torch.zeros(2)), cyclic, shared,
    ],
    ids=lambda sample: type(sample).__name__,
)  # fmt: skip
def test_other_types_are_refused(sample: Any) -> None:
    """Types that would not round-trip are refused at any depth; none is silently written as another type."""
    with pytest.raises(flat.Unsupported):
        flat.encode(sample)


def test_deep_json_within_the_limit() -> None:
    """A nest of 900 levels, with and without an array, round-trips."""
    for leaf in (1, torch.ones(2)):
        back = flat.decode(payload(nested(900, leaf)))
        for _ in range(900):
            (back,) = back
        assert same(back, leaf)


def test_string_arrays_of_many_lengths() -> None:
    """Thousands of dtypes do not accumulate, and each is decoded correctly."""
    for length in range(1, 4200):
        sample = np.array(["x" * length])
        if length % 100 == 0 or length > 4090:
            assert same(flat.decode(payload(sample)), sample)
        else:
            flat.decode(payload(sample))
