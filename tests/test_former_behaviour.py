"""Behaviour of the former system that code written for it relies on."""

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest
import torch

import streaming
import streaming.sources
from streaming import AsyncPrefetcher, DataSourceConfig, SmartLRUCache, StreamingDatasetAdapter
from streaming.errors import ClosedError, ConfigError, MissingPart

COUNT = 6
PATIENCE_S = 60.0  # after which a test that hangs fails


def write_part(folder, prefix=""):
    """Write `COUNT` samples of one part as `.pt` files; the value of each is its number."""
    folder.mkdir(parents=True)
    for i in range(COUNT):
        torch.save({"x": torch.tensor(float(i))}, folder / f"{prefix}{i:04d}.pt")
    return folder


def write_parts(root, *folders):
    """Write the layout of precomputing trainers: a folder for each part."""
    for folder in folders:
        write_part(root / folder)
    return str(root)


def keys_of(sources, mapping=None, **options):
    """Return the keys of a sample without its position, after a check that all parts belong to that sample."""
    with StreamingDatasetAdapter(sources, mapping, cache_size_gb=0.1, **options) as dataset:
        assert len(dataset) == COUNT
        sample = dataset[3]
        assert {float(sample[key]["x"]) for key in sample if key != "idx"} == {3.0}
        return set(sample) - {"idx"}


async def until(condition):
    """Let the loop run until a condition is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.to_thread(int)


async def settle():
    """Let all due callbacks run, including threads of `asyncio.to_thread`."""
    for _ in range(20):
        await asyncio.to_thread(int)


# -- data_mapping


@pytest.mark.parametrize("below", ["", ".precomputed/"])
@pytest.mark.parametrize(
    ("folders", "keys"),
    [
        (("latents", "conditions"), {"latent_conditions", "text_conditions"}),
        (("latents",), {"latent_conditions"}),
        (("conditions",), {"text_conditions"}),
        (("latents", "conditions", "masks"), {"latent_conditions", "text_conditions", "masks"}),
        (("conditions", "audio"), {"text_conditions", "audio"}),
    ],
)
def test_folders_have_their_former_keys_without_a_mapping(tmp_path, below, folders, keys):
    """`latents` and `conditions` get their keys, one of them is enough, and other folders keep their names."""
    assert keys_of(write_parts(tmp_path, *(below + folder for folder in folders))) == keys


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("latents", "conditions"), {"latent_conditions", "text_conditions"}),
        (("latents",), {"latent_conditions"}),
        (("conditions", "masks"), {"text_conditions", "masks"}),
        (("video", "text"), {"video", "text"}),
    ],
)
def test_sources_have_their_former_keys_without_a_mapping(tmp_path, names, keys):
    """The same for sources of those names."""
    sources = [DataSourceConfig(name, "local", str(write_part(tmp_path / f"at_{name}"))) for name in names]
    assert keys_of(sources) == keys


def test_a_source_and_a_folder_are_parts_side_by_side(tmp_path):
    """A source with one part and a source with folders of parts are matched into one sample."""
    write_parts(tmp_path / "data", "conditions", "audio")
    masks = DataSourceConfig("masks", "local", str(write_part(tmp_path / "elsewhere")))
    assert keys_of([str(tmp_path / "data"), masks]) == {"text_conditions", "audio", "masks"}


def test_mirrors_of_the_folders_are_replicas_without_a_mapping(tmp_path):
    """Two sources with the same folders are replicas of each other, at any place of their folders."""
    write_parts(tmp_path / "first", ".precomputed/latents", ".precomputed/audio")
    write_parts(tmp_path / "second", "latents", "audio")
    assert keys_of([str(tmp_path / "first"), str(tmp_path / "second")]) == {"latent_conditions", "audio"}


def test_folders_of_other_names_stay_one_part(tmp_path):
    """Without `latents` and `conditions`, the folders of a root contain samples and are not parts."""
    write_parts(tmp_path / "data", "a", "b")
    with StreamingDatasetAdapter(str(tmp_path / "data")) as dataset:
        assert len(dataset) == 2 * COUNT
        assert set(dataset[0]) == {"data", "idx"}


def test_a_folder_that_does_not_match_is_named_with_the_way_out(tmp_path):
    """A further folder with other samples is not lost silently: the error says how to leave it out."""
    write_parts(tmp_path, "latents", "conditions")
    (tmp_path / "videos").mkdir()
    torch.save({}, tmp_path / "videos" / "clip.pt")
    with pytest.raises(MissingPart, match="data_mapping"):
        StreamingDatasetAdapter(str(tmp_path))


@pytest.mark.parametrize("folder", ["latent_conditions", "idx"])
def test_a_key_is_never_given_twice(tmp_path, folder):
    """A part whose own name is the key of another part, or `idx`, would replace it silently."""
    with pytest.raises(ConfigError, match=folder):
        StreamingDatasetAdapter(write_parts(tmp_path, "latents", folder))


def test_an_index_of_an_older_default_is_not_taken(tmp_path):
    """A saved index depends on the mapping that None stands for; `configuration` distinguishes the two."""
    from streaming.index import configuration
    from streaming.sources import create_data_source

    source = create_data_source(write_parts(tmp_path / "data", "latents"))
    texts = [configuration([source], data_mapping=mapping) for mapping in (None, {"latents": "latent_conditions"})]
    assert texts[0] != texts[1]
    path = tmp_path / "saved.index"
    for _ in range(2):
        assert keys_of(str(tmp_path / "data"), index_path=path) == {"latent_conditions"}
    assert keys_of(str(tmp_path / "data"), {"latents": "x"}, index_path=path) == {"x"}


@pytest.mark.parametrize(
    ("folders", "mapping", "named"),
    [
        (("latents", "conditions"), {"latent": "x", "conditions": "y"}, "'latent'.*did you mean 'latents'"),
        (("latents", "conditions"), {"images": "x"}, "'images'.*conditions"),
        (("latents",), {"conditions": "text_conditions"}, "'conditions'.*latents"),
        (("latents",), {"latens": "latent_conditions"}, "'latens'.*did you mean 'latents'"),
        (("train", "valid"), {"trian": "x"}, "'trian'.*did you mean 'train'"),
        ((".precomputed/video",), {"latents": "x"}, "'latents'.*video"),
    ],
)
def test_a_name_that_nothing_has_is_refused(tmp_path, folders, mapping, named):
    """An explicit mapping never gives data that it does not name."""
    write_parts(tmp_path / "data", *folders)
    with pytest.raises(ConfigError, match=named):
        StreamingDatasetAdapter(str(tmp_path / "data"), mapping)


def test_a_name_that_none_of_several_sources_has_is_refused(tmp_path):
    """The exception is for one source only, and for one name."""
    sources = [DataSourceConfig(name, "local", str(write_part(tmp_path / name))) for name in ("one", "two")]
    with pytest.raises(ConfigError, match="'latents'"):
        StreamingDatasetAdapter(sources, {"latents": "x"})
    with pytest.raises(ConfigError, match="'latents'"):
        StreamingDatasetAdapter(sources[:1], {"latents": "x", "conditions": "y"})


@pytest.mark.parametrize("name", ["my_bucket", "s3_primary", "data"])
@pytest.mark.parametrize("folder", [".", "clip_00", "clip_00/scene_1"])
def test_one_source_of_one_part_has_any_name(tmp_path, name, folder):
    """One source with one part, in folders or not, gives it to a mapping of one name."""
    write_part(tmp_path / "root" / folder)
    source = DataSourceConfig(name, "local", str(tmp_path / "root"))
    assert keys_of(source, {"latents": "latent_conditions"}) == {"latent_conditions"}


# -- AsyncPrefetcher


class Fetches:
    """A `fetch_fn` that records the requested keys."""

    def __init__(self):
        self.keys = []

    async def __call__(self, key):
        self.keys.append(key)
        if key.startswith("bad"):
            raise OSError(f"planted for {key}")
        return {"key": key}


@pytest.fixture
def fetches():
    """Return a new `fetch_fn` for each test."""
    return Fetches()


async def test_queue_item_takes_effect_without_await(fetches):
    """The key is fetched into the cache, and no coroutine is left that was never awaited."""
    cache = SmartLRUCache(max_size_gb=0.01)
    prefetcher = AsyncPrefetcher(cache, fetches, queue_size=10)
    await prefetcher.start()
    for key in "abc":
        prefetcher.queue_item(key)
    gc.collect()
    await until(lambda: cache.get_cache_stats()["num_items"] == 3)
    assert fetches.keys == ["a", "b", "c"]
    assert [await cache.get(key) for key in "abc"] == [{"key": key} for key in "abc"]
    assert cache.get_metrics().prefetch_hits == 3
    assert (cache.get_metrics().hits, cache.get_metrics().misses) == (3, 0)
    await prefetcher.stop()


async def test_queue_item_with_await_waits_for_room():
    """With `await` at most `queue_size` keys wait; without it no key is lost."""
    gate = asyncio.Event()

    async def fetch(key):
        await gate.wait()
        return key

    cache = SmartLRUCache(max_size_gb=0.01)
    prefetcher = AsyncPrefetcher(cache, fetch, queue_size=2, concurrency=1)
    prefetcher.start()
    for key in "abc":
        await prefetcher.queue_item(key)
    waits = asyncio.ensure_future(prefetcher.queue_item("d"))
    prefetcher.queue_item("e")
    await settle()
    assert not waits.done()
    gate.set()
    await waits
    await until(lambda: len(cache) == 5)
    await prefetcher.stop()


async def test_queue_item_of_a_stopped_prefetcher_says_so(fetches):
    """With and without `await` the call itself fails."""
    prefetcher = AsyncPrefetcher(SmartLRUCache(max_size_gb=0.01), fetches)
    with pytest.raises(ClosedError, match="call start"):
        prefetcher.queue_item("a")


def test_queue_item_works_from_a_thread_without_a_loop():
    """A thread next to the loop queues too, like a data loader's thread."""
    fetches = Fetches()
    cache = SmartLRUCache(max_size_gb=0.01)

    async def main():
        prefetcher = AsyncPrefetcher(cache, fetches)
        prefetcher.start()
        await asyncio.to_thread(prefetcher.queue_item, "a")
        await until(lambda: len(cache) == 1)
        await prefetcher.stop()

    asyncio.run(main())
    assert fetches.keys == ["a"]


async def test_at_most_prefetch_ahead_fetched_keys_are_unread(fetches):
    """Reading one, through the cache or the prefetcher, allows the next fetch; no key is fetched twice."""
    cache = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=2)
    prefetcher = AsyncPrefetcher(cache, fetches, queue_size=10)
    prefetcher.start()
    for key in "abcde":
        prefetcher.queue_item(key)
    await settle()
    assert fetches.keys == ["a", "b"]
    assert cache.get_cache_stats()["num_items"] == 2
    assert await cache.get("a") == {"key": "a"}
    await until(lambda: len(cache) == 3)
    assert await prefetcher.get("b") == {"key": "b"}
    await until(lambda: len(cache) == 4)
    await settle()
    assert fetches.keys == ["a", "b", "c", "d"]
    assert await prefetcher.get("e") == {"key": "e"}  # read out of turn
    assert [await prefetcher.get(key) for key in "cd"] == [{"key": "c"}, {"key": "d"}]
    await settle()
    assert sorted(fetches.keys) == list("abcde")
    assert cache.get_metrics().prefetch_hits == 4
    await prefetcher.stop()


async def test_keys_that_are_read_while_they_come_do_not_stop_the_queue(fetches):
    """A reader that joins a fetch has read its key: it does not stay unread, and is not a prefetch hit."""
    cache = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=1)
    prefetcher = AsyncPrefetcher(cache, fetches, queue_size=10)
    prefetcher.start()
    for key in "abcd":
        prefetcher.queue_item(key)
        assert await prefetcher.get(key) == {"key": key}
    assert fetches.keys == list("abcd")
    prefetcher.queue_item("e")
    await until(lambda: len(cache) == 5)
    assert cache.get_cache_stats()["prefetched_unread"] == 1
    await prefetcher.stop()


async def test_what_leaves_the_cache_unread_or_fails_does_not_stop_the_queue(fetches):
    """Clearing the cache, or a failed fetch, makes room for the next key."""
    cache = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=1)
    prefetcher = AsyncPrefetcher(cache, fetches, queue_size=10)
    prefetcher.start()
    for key in ("bad1", "bad2", "a", "b"):
        prefetcher.queue_item(key)
    await until(lambda: "a" in cache)
    await cache.clear()
    await until(lambda: "b" in cache)
    assert fetches.keys == ["bad1", "bad2", "a", "b"]
    await prefetcher.stop()


ERROR_UNREAD = """
import asyncio, gc
from streaming import AsyncPrefetcher, SmartLRUCache

async def fetch(key):
    if key == "slow":
        await asyncio.Event().wait()
    raise OSError("planted")

async def main(stops):
    cache = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=4)
    prefetcher = AsyncPrefetcher(cache, fetch, concurrency=2)
    prefetcher.start()
    for key in ("a", "b", "slow", "c", "d", "slow", "e"):
        prefetcher.queue_item(key)
    reader = asyncio.ensure_future(prefetcher.get("slow"))
    for _ in range(50):
        await asyncio.sleep(0)
    reader.cancel()
    if stops:
        prefetcher.stop()

for stops in (True, False):
    asyncio.run(main(stops))
    gc.collect()
"""

ADAPTER_ERROR_UNREAD = """
import sys
from streaming import StreamingDatasetAdapter

dataset = StreamingDatasetAdapter(sys.argv[1], cache_size_gb=0.01)
dataset.prefetch_batch([0, 1]).result(60)
dataset.prefetch_batch([0, 1])
"""


@pytest.mark.parametrize("script", [ERROR_UNREAD, ADAPTER_ERROR_UNREAD], ids=["prefetcher", "adapter"])
def test_a_prefetch_error_that_is_never_read_leaves_no_traceback(tmp_path, script):
    """Not when it is dropped, nor at the end of the loop, nor at the end of the interpreter."""
    for i in range(2):
        (tmp_path / f"{i}.pt").write_bytes(b"damaged")
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- SmartLRUCache.prefetch


async def test_prefetch_fetches_the_first_prefetch_ahead_of_its_keys(fetches):
    """The others are False in the result; None fetches all."""
    cache = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=2)
    answer = await cache.prefetch(["a", "b", "a", "c", "d"], fetches)
    assert answer == {"a": True, "b": True, "c": False, "d": False}
    assert sorted(fetches.keys) == ["a", "b"]
    everything = SmartLRUCache(max_size_gb=0.01)
    assert all((await everything.prefetch([str(i) for i in range(100)], fetches)).values())
    nothing = SmartLRUCache(max_size_gb=0.01, prefetch_ahead=0)
    assert await nothing.prefetch(["a"], fetches) == {"a": False}


# -- prefetch_batch


@pytest.mark.parametrize("owner", ["thread", "process"])
def test_what_prefetch_batch_fetches_is_in_the_cache(tmp_path, owner):
    """`num_items` grows, the first read of each is a prefetch hit, the second is a plain hit, nothing is read twice."""
    with StreamingDatasetAdapter(write_parts(tmp_path, "latents"), cache_size_gb=0.1, owner=owner) as dataset:
        dataset.prefetch_batch([0, 1, 2]).result(60)
        assert dataset.get_cache_stats()["num_items"] == 3
        for _ in range(2):
            assert [float(dataset[i]["latent_conditions"]["x"]) for i in range(3)] == [0, 1, 2]
        stats = dataset.get_cache_stats()
        assert (stats["prefetch_hits"], stats["fetched_samples"], stats["total_hits"]) == (3, 3, 3)
        dataset.reset_metrics()
        assert dataset.get_cache_stats()["prefetch_hits"] == 0


@pytest.mark.parametrize("owner", ["thread", "process"])
async def test_prefetch_batch_keeps_to_prefetch_ahead(tmp_path, owner):
    """At most that many fetched samples are unread; reading one allows the next, until the batch is complete."""
    options = {"cache_size_gb": 0.1, "prefetch_ahead": 2, "owner": owner}
    with StreamingDatasetAdapter(write_parts(tmp_path, "latents"), **options) as dataset:
        await dataset.prefetch_batch(range(COUNT))
        assert dataset.get_cache_stats()["num_items"] == 2
        for i in range(COUNT):
            await until(lambda i=i: dataset.get_cache_stats()["num_items"] == min(i + 2, COUNT))
            assert dataset[i]["idx"] == i
        stats = dataset.get_cache_stats()
        assert (stats["prefetch_hits"], stats["fetched_samples"]) == (COUNT, COUNT)


def test_prefetch_batch_leaves_what_was_read_ahead_to_its_reader(tmp_path):
    """A batch that is both announced and prefetched is fetched once."""
    with StreamingDatasetAdapter(write_parts(tmp_path, "latents"), cache_size_gb=0.1) as dataset:
        for i in dataset.look_ahead(range(COUNT)):
            dataset.prefetch_batch(range(COUNT)).result(60)
            assert dataset[i]["idx"] == i
        assert dataset.get_cache_stats()["fetched_samples"] == COUNT


async def test_stopping_the_worker_ends_a_batch(tmp_path):
    """The samples that a batch has not fetched yet are dropped."""
    options: dict[str, Any] = {"cache_size_gb": 0.1, "prefetch_ahead": 1}
    with StreamingDatasetAdapter(write_parts(tmp_path, "latents"), **options) as dataset:
        await dataset.prefetch_batch([0, 1, 2])
        dataset.stop_prefetch_worker()
        assert [dataset[i]["idx"] for i in (0, 5)] == [0, 5]
        assert dataset.get_cache_stats()["fetched_samples"] == 2


# -- names


def test_every_source_class_is_importable_from_the_root():
    """`from streaming import S3DataSource`, and all others."""
    classes = [name for name in streaming.sources.__all__ if name.endswith("Source")]
    assert len(classes) >= 7
    for name in classes:
        assert name in streaming.__all__
        assert getattr(streaming, name) is getattr(streaming.sources, name)
