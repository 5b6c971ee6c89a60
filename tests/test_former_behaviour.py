"""What the names of the former system did, each fact as code written for that system relies on it."""

import asyncio

import pytest
import torch

import streaming
import streaming.sources
from streaming import DataSourceConfig, StreamingDatasetAdapter
from streaming.errors import ConfigError, MissingPart

COUNT = 6
PATIENCE_S = 60.0  # after which a test that hangs fails


def write_part(folder, prefix=""):
    """`COUNT` samples of one part as `.pt` files; the value of each is its number."""
    folder.mkdir(parents=True)
    for i in range(COUNT):
        torch.save({"x": torch.tensor(float(i))}, folder / f"{prefix}{i:04d}.pt")
    return folder


def write_parts(root, *folders):
    """The layout that precomputing trainers write: a folder for each part."""
    for folder in folders:
        write_part(root / folder)
    return str(root)


def keys_of(sources, *mapping, **options):
    """The keys of a sample apart from its position; every part of it must be of the same sample."""
    with StreamingDatasetAdapter(sources, *mapping, cache_size_gb=0.1, **options) as dataset:
        assert len(dataset) == COUNT
        sample = dataset[3]
        assert {float(sample[key]["x"]) for key in sample if key != "idx"} == {3.0}
        return set(sample) - {"idx"}


async def until(condition):
    """Let the loop run until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.to_thread(int)


async def settle():
    """Let every callback that is due run, threads of `asyncio.to_thread` included."""
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
    """`latents` and `conditions` are known by name, one of them is enough, and others keep their names."""
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
    """A source that holds one part and one that holds folders of parts make one sample."""
    write_parts(tmp_path / "data", "conditions", "audio")
    masks = DataSourceConfig("masks", "local", str(write_part(tmp_path / "elsewhere")))
    assert keys_of([str(tmp_path / "data"), masks]) == {"text_conditions", "audio", "masks"}


def test_mirrors_of_the_folders_are_copies_without_a_mapping(tmp_path):
    """Two sources with the same folders are copies of each other, wherever their folders lie."""
    write_parts(tmp_path / "first", ".precomputed/latents", ".precomputed/audio")
    write_parts(tmp_path / "second", "latents", "audio")
    assert keys_of([str(tmp_path / "first"), str(tmp_path / "second")]) == {"latent_conditions", "audio"}


def test_folders_of_other_names_stay_one_part(tmp_path):
    """Without `latents` and `conditions`, the folders of a root are where its samples lie, and no parts."""
    write_parts(tmp_path / "data", "a", "b")
    with StreamingDatasetAdapter(str(tmp_path / "data")) as dataset:
        assert len(dataset) == 2 * COUNT
        assert set(dataset[0]) == {"data", "idx"}


def test_a_folder_that_does_not_match_is_named_with_the_way_out(tmp_path):
    """A further folder whose samples are others is no silent loss: the error says how to leave it out."""
    write_parts(tmp_path, "latents", "conditions")
    (tmp_path / "videos").mkdir()
    torch.save({}, tmp_path / "videos" / "clip.pt")
    with pytest.raises(MissingPart, match="data_mapping"):
        StreamingDatasetAdapter(str(tmp_path))


@pytest.mark.parametrize("folder", ["latent_conditions", "idx"])
def test_a_key_is_never_given_twice(tmp_path, folder):
    """A part whose own name is the key of another, or `idx`, would replace it without a word."""
    with pytest.raises(ConfigError, match=folder):
        StreamingDatasetAdapter(write_parts(tmp_path, "latents", folder))


def test_an_index_of_an_older_default_is_not_taken(tmp_path):
    """A saved index follows the mapping that None means; `configuration` tells it from an explicit one."""
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
    """An explicit mapping never gives other data than it names."""
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
    """One source that holds one part, also in folders of its own, gives it to a mapping of one name."""
    write_part(tmp_path / "root" / folder)
    source = DataSourceConfig(name, "local", str(tmp_path / "root"))
    assert keys_of(source, {"latents": "latent_conditions"}) == {"latent_conditions"}


# -- names


def test_every_source_class_is_importable_from_the_root():
    """`from streaming import S3DataSource`, and all others."""
    classes = [name for name in streaming.sources.__all__ if name.endswith("Source")]
    assert len(classes) >= 7
    for name in classes:
        assert name in streaming.__all__
        assert getattr(streaming, name) is getattr(streaming.sources, name)
