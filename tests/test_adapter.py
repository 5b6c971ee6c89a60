"""`StreamingDatasetAdapter` as a map-style data set: reading, caching, reading ahead, closing."""

import asyncio
import gc
import os
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from streaming.adapter import StreamingDatasetAdapter, create_streaming_dataset_from_config
from streaming.errors import (
    ClosedError,
    ConfigError,
    DecodeError,
    MissingPart,
    NoSamples,
    ObjectChanged,
    ObjectNotFoundError,
    PrepareError,
)
from streaming.sources import LocalDataSource

COUNT = 12


def _write_latents(root, count=COUNT):
    """`count` samples of two parts, in the layout that precomputing trainers write."""
    for folder in ("latents", "conditions"):
        (root / ".precomputed" / folder).mkdir(parents=True)
    for i in range(count):
        latent = {"latents": torch.full((4, 2, 3, 3), float(i)), "num_frames": 2, "height": 3, "width": 3}
        condition = {"prompt_embeds": torch.full((5, 8), float(i)), "prompt_attention_mask": torch.ones(5)}
        torch.save(latent, root / ".precomputed" / "latents" / f"latent_{i:04d}.pt")
        torch.save(condition, root / ".precomputed" / "conditions" / f"condition_{i:04d}.pt")
    return root


MAPPING = {"latents": "latent_conditions", "conditions": "text_conditions"}


@pytest.fixture
def root(tmp_path):
    """A folder of precomputed samples."""
    return _write_latents(tmp_path)


@pytest.fixture
def adapter(root):
    """An adapter over them, closed with the test."""
    with StreamingDatasetAdapter(str(root), MAPPING) as adapter:
        yield adapter


def _value(sample):
    return sample["latent_conditions"]["latents"][0, 0, 0, 0].item()


def test_a_sample_has_its_mapped_keys_and_its_position(adapter):
    """Parts come as stored, under the keys of the mapping, with `idx`."""
    sample = adapter[3]
    assert set(sample) == {"latent_conditions", "text_conditions", "idx"}
    assert sample["idx"] == 3
    assert sample["latent_conditions"]["latents"].shape == (4, 2, 3, 3)
    assert sample["latent_conditions"]["num_frames"] == 2
    assert torch.equal(sample["text_conditions"]["prompt_embeds"], torch.full((5, 8), 3.0))


def test_indices_work_as_in_a_list(adapter):
    """Negative indices count from the end, others outside the range raise IndexError, any integer type works."""
    assert len(adapter) == COUNT
    assert adapter[-1]["idx"] == COUNT - 1
    assert adapter[np.int64(2)]["idx"] == adapter[torch.tensor(2)]["idx"] == 2
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="out of range"):
            adapter[index]
    with pytest.raises(TypeError):
        adapter["0"]
    assert [sample["idx"] for sample in adapter] == list(range(COUNT))


def test_the_second_read_is_a_hit_and_a_copy(adapter):
    """Nothing is fetched twice, and writing into a sample never changes the next read."""
    first = adapter[0]
    first["latent_conditions"]["latents"].fill_(99)
    second = adapter[0]
    assert _value(second) == 0
    stats = adapter.get_cache_stats()
    assert (stats["fetched_samples"], stats["total_hits"], stats["total_misses"]) == (1, 1, 1)
    assert stats["fetched_objects"] == 2
    assert stats["hit_rate"] == 0.5


def test_stats_have_the_names_that_dashboards_use(adapter):
    """Every documented key exists, and reset_metrics sets the counts back."""
    adapter[0]
    names = "num_items current_size_gb max_size_gb hit_rate total_hits total_misses total_evictions prefetch_hits"
    stats = adapter.get_cache_stats()
    assert {*names.split(), "compression_savings_gb"} <= set(stats)
    assert stats["num_items"] == 1
    assert 0 < stats["current_size_gb"] < stats["max_size_gb"] == 10
    adapter.reset_metrics()
    stats = adapter.get_cache_stats()
    assert (stats["total_misses"], stats["fetched_bytes"], stats["num_items"]) == (0, 0, 1)


async def test_reading_works_inside_a_running_loop(adapter):
    """Old code indexes the data set from async code."""
    assert adapter[5]["idx"] == 5
    assert adapter[5]["idx"] == 5


async def test_old_calls_work_with_and_without_await(adapter):
    """This holds for start, stop, prefetch_batch and clear_cache."""
    adapter.start_prefetch_worker()
    await adapter.start_prefetch_worker()
    await adapter.prefetch_batch([0, 1, 2])
    assert adapter.get_cache_stats()["num_items"] == 3
    adapter.prefetch_batch([3])
    assert adapter[3]["idx"] == 3
    await adapter.clear_cache()
    adapter.clear_cache()
    assert adapter.get_cache_stats()["num_items"] == 0
    adapter.stop_prefetch_worker()
    await adapter.stop_prefetch_worker()
    assert adapter[0]["idx"] == 0


def test_a_batch_is_fetched_together(adapter):
    """`__getitems__` keeps the order of the indices, with repeats, and each sample is the caller's own."""
    samples = adapter.__getitems__([4, 0, 4, -1])
    assert [sample["idx"] for sample in samples] == [4, 0, 4, COUNT - 1]
    samples[0]["latent_conditions"]["latents"].fill_(-1)
    assert _value(samples[2]) == 4
    assert adapter.get_cache_stats()["fetched_samples"] == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_reads_every_sample_once(adapter, num_workers):
    """There is one fetch per sample with any number of workers, over two epochs."""
    generator = torch.Generator().manual_seed(0)
    sampler = adapter.look_ahead(RandomSampler(adapter, generator=generator))
    loader = DataLoader(adapter, batch_size=5, sampler=sampler, num_workers=num_workers)
    for _ in range(2):
        seen: dict[int, float] = {}
        for batch in loader:
            values = batch["latent_conditions"]["latents"][:, 0, 0, 0, 0]
            seen.update(zip(batch["idx"].tolist(), values.tolist(), strict=True))
        assert seen == {i: float(i) for i in range(COUNT)}
    stats = adapter.get_cache_stats()
    assert stats["fetched_samples"] == COUNT
    assert stats["total_hits"] == COUNT


def test_look_ahead_reads_ahead(adapter):
    """Announced samples are fetched before they are read, up to prefetch_ahead."""
    sampler = iter(adapter.look_ahead(range(COUNT)))
    first = next(sampler)
    assert adapter[first]["idx"] == 0
    for index in sampler:
        assert adapter[index]["idx"] == index
    stats = adapter.get_cache_stats()
    assert stats["fetched_samples"] == COUNT
    assert stats["total_misses"] == COUNT


def test_leaving_an_epoch_early_leaves_the_next_one_whole(adapter):
    """A loop that breaks loses nothing and stops reading ahead."""
    sampler = adapter.look_ahead(range(COUNT))
    for index in sampler:
        adapter[index]
        if index == 3:
            break
    assert [adapter[index]["idx"] for index in sampler] == list(range(COUNT))


def test_prefetch_can_be_switched_off(root):
    """With enable_prefetch=False an announced sample is not fetched before it is read."""
    with StreamingDatasetAdapter(str(root), MAPPING, enable_prefetch=False) as adapter:
        for _ in adapter.look_ahead(range(COUNT)):
            pass
        adapter.prefetch_batch([0])
        assert adapter.get_cache_stats()["fetched_samples"] == 0
        assert adapter[0]["idx"] == 0


class Doubled:
    """A deterministic prepare that counts its calls."""

    calls = 0

    def __call__(self, sample):
        type(self).calls += 1
        return {"x": sample["latent_conditions"]["latents"] * 2, "idx": sample["idx"]}


def test_prepare_runs_once_and_is_cached(root):
    """The cache holds the prepared sample."""
    Doubled.calls = 0
    with StreamingDatasetAdapter(str(root), MAPPING, prepare=Doubled()) as adapter:
        for _ in range(3):
            assert adapter[2]["x"].unique().tolist() == [4.0]
        assert Doubled.calls == 1


def _only_shape(sample):
    return {"shape": list(sample["latent_conditions"]["latents"].shape)}


def test_a_prepared_dict_keeps_its_position(root):
    """A prepare that makes a new dict may leave `idx` out."""
    with StreamingDatasetAdapter(str(root), MAPPING, prepare=_only_shape) as adapter:
        for _ in range(2):
            assert adapter[3] == {"shape": [4, 2, 3, 3], "idx": 3}


def _add_noise(sample, generator):
    return sample["idx"], torch.rand(1, generator=generator).item()


def test_transform_runs_at_each_read_with_a_seeded_generator(root):
    """The generator depends on (seed, epoch, position): repeatable, and new in each epoch."""

    def read(seed, epochs):
        with StreamingDatasetAdapter(str(root), MAPPING, transform=_add_noise, seed=seed) as adapter:
            sampler = adapter.look_ahead(range(3))
            return [[adapter[index][1] for index in sampler] for _ in range(epochs)]

    first = read(0, 2)
    assert first == read(0, 2)
    assert first[0] != first[1]
    assert first != read(1, 2)
    assert len({value for epoch in first for value in epoch}) == 6


def test_transform_sees_a_copy(root):
    """A transform that writes in place changes nothing for the next read."""

    def add_one(sample):
        sample["latent_conditions"]["latents"].add_(1)
        return sample

    with StreamingDatasetAdapter(str(root), MAPPING, transform=add_one) as adapter:
        assert [_value(adapter[1]) for _ in range(3)] == [2.0] * 3


def _fail(sample):
    raise ZeroDivisionError("planted")


@pytest.mark.parametrize("stage", ["prepare", "transform"])
def test_a_failing_function_of_the_user_is_named(root, stage):
    """The error names the stage and the sample, and keeps the cause; the next read tries again."""
    functions: dict[str, Any] = {stage: _fail}
    with StreamingDatasetAdapter(str(root), MAPPING, **functions) as adapter:
        for _ in range(2):
            with pytest.raises(
                PrepareError, match=rf"{stage} failed on sample 1.*ZeroDivisionError: planted"
            ) as caught:
                adapter[1]
            assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_part_is_named_or_dropped(root):
    """Samples are never silently misaligned."""
    (root / ".precomputed" / "conditions" / "condition_0003.pt").unlink()
    with pytest.raises(MissingPart, match="0003"):
        StreamingDatasetAdapter(str(root), MAPPING)
    with StreamingDatasetAdapter(str(root), MAPPING, missing="drop") as adapter:
        assert len(adapter) == COUNT - 1
        assert adapter.get_cache_stats()["dropped"] == 1
        assert _value(adapter[3]) == adapter[3]["text_conditions"]["prompt_embeds"][0, 0] == 4


def test_changed_and_missing_objects_are_reported(adapter, root):
    """A read returns what was indexed, or raises an error that names the object."""
    latents = root / ".precomputed" / "latents"
    (latents / "latent_0000.pt").unlink()
    with (latents / "latent_0001.pt").open("ab") as file:
        file.write(b"grown")
    with pytest.raises(ObjectNotFoundError, match=r"latent_0000\.pt"):
        adapter[0]
    with pytest.raises(ObjectChanged, match=r"latent_0001\.pt"):
        adapter[1]
    assert adapter[2]["idx"] == 2


def test_a_damaged_object_is_named(root):
    """Bytes that are not a `.pt` file raise at their read and leave the others readable."""
    broken = root / ".precomputed" / "latents" / "latent_0002.pt"
    broken.write_bytes(broken.read_bytes()[:100])
    with StreamingDatasetAdapter(str(root), MAPPING) as adapter:
        sampler = iter(adapter.look_ahead(range(COUNT)))
        assert [adapter[next(sampler)]["idx"] for _ in range(2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(DecodeError, match=r"latent_0002\.pt"):
                adapter[2]
        assert adapter[3]["idx"] == 3


def test_no_samples_is_length_zero_and_no_sources_is_refused(tmp_path):
    """An empty folder is a data set without samples; an empty list of sources is a mistake."""
    (tmp_path / "empty").mkdir()
    with StreamingDatasetAdapter(str(tmp_path / "empty")) as adapter:
        assert len(adapter) == 0
        with pytest.raises(IndexError):
            adapter[0]
        assert list(DataLoader(adapter, batch_size=2)) == []
    with pytest.raises(ConfigError):
        StreamingDatasetAdapter([])
    with pytest.raises(ObjectNotFoundError):
        StreamingDatasetAdapter(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "options",
    [
        {"cache_size_gb": 0},
        {"cache_size_gb": -1},
        {"max_ttl_seconds": -1},
        {"compression_type": "gzip"},
        {"missing": "ignore"},
        {"prefetch_ahead": 0},
        {"data_mapping": {"latent": "x"}},
        {"policy": "fifo"},
    ],
)
def test_settings_that_cannot_be_used_are_refused(root, options):
    """The constructor raises ValueError."""
    with pytest.raises(ConfigError) as caught:
        StreamingDatasetAdapter(str(root), **{"data_mapping": MAPPING, **options})
    assert isinstance(caught.value, ValueError)


def test_a_cache_smaller_than_a_sample_still_serves(root):
    """Samples larger than the whole cache bypass it and are counted."""
    with StreamingDatasetAdapter(str(root), MAPPING, cache_size_gb=5e-7) as adapter:
        sampler = adapter.look_ahead(range(COUNT))
        assert [adapter[index]["idx"] for index in sampler] == list(range(COUNT))
        assert adapter[0]["idx"] == 0
        stats = adapter.get_cache_stats()
        assert stats["num_items"] == 0
        assert stats["bypassed"] > 0


def test_sources_are_given_in_every_form(root):
    """A URL, a dict with long or short names, and an object made from its config are the same source."""
    source = {"name": "data", "source_type": "local", "path_or_uri": str(root)}
    forms = [
        f"file://{root}",
        [str(root)],
        source,
        [{"name": "data", "type": "local", "path": str(root)}],
    ]
    for form in forms:
        with StreamingDatasetAdapter(form, MAPPING) as adapter:
            assert _value(adapter[1]) == 1
    from streaming.core.source_config import parse_source

    with StreamingDatasetAdapter(LocalDataSource(parse_source(source)), MAPPING) as adapter:
        assert _value(adapter[1]) == 1


def test_a_dict_or_a_file_configures_an_adapter(root, tmp_path):
    """The names are those of the arguments, and overrides win."""
    settings = {"sources": [str(root)], "data_mapping": MAPPING, "cache_size_gb": 1}
    with create_streaming_dataset_from_config(settings) as adapter:
        assert len(adapter) == COUNT
        assert adapter.get_cache_stats()["max_size_gb"] == 1
    path = tmp_path / "config.yaml"
    path.write_text(f"sources: [{root}]\ndata_mapping: {{latents: x, conditions: y}}\n")
    with StreamingDatasetAdapter.from_config(path, cache_size_gb=2) as adapter:
        assert set(adapter[0]) == {"x", "y", "idx"}
        assert adapter.get_cache_stats()["max_size_gb"] == 2
    with pytest.raises(ConfigError, match="cache_size"):
        create_streaming_dataset_from_config({**settings, "cache_size_bg": 1})


def test_the_index_is_saved_and_opened_again(root, tmp_path, caplog):
    """A second start needs no listing; a damaged file is replaced and logged."""
    path = tmp_path / "samples.index"
    for _ in range(2):
        with StreamingDatasetAdapter(str(root), MAPPING, index_path=path) as adapter:
            assert _value(adapter[7]) == 7
    assert "index_rebuilt" not in caplog.text
    path.write_bytes(path.read_bytes()[:50])
    for _ in range(2):
        with StreamingDatasetAdapter(str(root), MAPPING, index_path=path) as adapter:
            assert len(adapter) == COUNT
    assert caplog.text.count(f"index_rebuilt path={path} reason=") == 1


@pytest.mark.parametrize("owner", ["thread", "process"])
@pytest.mark.parametrize("mapping", [None, {"latnets": "x"}])
def test_a_folder_without_a_sample_is_refused(tmp_path, owner, mapping):
    """Objects that cannot be read raise an error with their count; a folder without objects has length 0."""
    with StreamingDatasetAdapter(str(tmp_path), mapping, owner=owner) as adapter:
        assert len(adapter) == 0
    for number in range(3):
        (tmp_path / f"{number}.parquet").touch()
    with pytest.raises(NoSamples, match=r"3 objects .* \(\.parquet 3"):
        StreamingDatasetAdapter(str(tmp_path), mapping, owner=owner)


@pytest.mark.parametrize("owner", ["thread", "process"])
def test_skipped_objects_are_counted(root, tmp_path, owner):
    """Objects outside any sample count, excluded ones do not, with and without a saved index."""
    (folder,) = root.rglob("latents")
    (folder / "notes.docx").touch()
    (folder / "metadata.json").touch()
    source = {"path": str(root), "exclude": ["metadata.json"]}
    for _ in range(2):
        with StreamingDatasetAdapter(source, MAPPING, owner=owner, index_path=tmp_path / "a.index") as adapter:
            assert len(adapter) == COUNT
            assert adapter.get_cache_stats()["skipped_objects"] == 1


def test_an_index_built_with_other_globs_is_built_again(root, tmp_path):
    """A saved index belongs to the `include` and `exclude` that it was built with."""
    for include, count in ((["*.pt"], COUNT), (["*_0001.pt"], 1)):
        source = {"path": str(root), "include": include}
        with StreamingDatasetAdapter(source, MAPPING, index_path=tmp_path / "a.index") as adapter:
            assert len(adapter) == count


def test_an_adapter_pickles_as_its_configuration(adapter):
    """The unpickled adapter reads on its own, with its own cache."""
    adapter[0]
    with pickle.loads(pickle.dumps(adapter)) as copy:
        assert len(copy) == COUNT
        assert _value(copy[2]) == 2
        assert copy.get_cache_stats()["num_items"] == 1
    assert _value(adapter[3]) == 3


def test_close_is_idempotent_and_final(root):
    """After close every use raises an error, and no thread of the pool is left."""
    adapter = StreamingDatasetAdapter(str(root), MAPPING)
    adapter[0]
    adapter.close()
    adapter.close()
    for use in (lambda: adapter[0], lambda: len(adapter), lambda: adapter.index, adapter.get_cache_stats):
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert not [thread for thread in threading.enumerate() if "streaming-decode" in thread.name and thread.is_alive()]


def test_a_dropped_adapter_frees_its_resources(root):
    """Garbage collection of the adapter closes its arena and its sockets."""
    adapter = StreamingDatasetAdapter(str(root), MAPPING)
    adapter[0]
    fd = adapter.cache.arena.fd
    closed = asyncio.run_coroutine_threadsafe  # the close is queued on the same loop as the coroutine below
    from streaming.core.runtime import current_runtime

    del adapter
    gc.collect()
    assert closed(asyncio.sleep(0), current_runtime().loop).result(10) is None
    current_runtime().run(_all_others_done())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def _all_others_done():
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if others:
        await asyncio.wait(others)


def test_a_damaged_line_is_named_with_its_object(tmp_path):
    """The error has the object's path in its source, the sample, and where the line begins."""
    (tmp_path / "stories.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": nothing}\n')
    with StreamingDatasetAdapter(str(tmp_path)) as dataset:
        assert dataset[1]["idx"] == 1
        with pytest.raises(
            DecodeError, match=r"'stories#2', the line at byte 18 of 'stories\.jsonl' .*column 7"
        ) as raised:
            dataset[2]
    assert raised.value.path == "stories.jsonl"
    assert ".jsonl.json" not in str(raised.value)
