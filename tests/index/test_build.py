"""How objects of several sources become samples, and what is refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError, DuplicateName, IndexBuildError, MissingPart, NoSamples, ObjectNotFoundError
from streaming.index import SampleIndex
from streaming.sources.local.source import LocalDataSource
from streaming.testing import MemorySource

TRAINER = {"latents": "latent_conditions", "conditions": "text_conditions"}


def memory(name: str, *paths: str) -> MemorySource:
    """A source whose objects hold their own paths."""
    return MemorySource(name, {path: path.encode("utf-8", "replace") for path in paths})


def names(index: SampleIndex) -> list[str]:
    """The names of all samples."""
    return [index.name(i) for i in range(len(index))]


def paths(index: SampleIndex) -> list[dict[str, tuple[int, str]]]:
    """Return the location of each part of each sample."""
    return [{row.part: (row.source, row.path) for row in index.rows(i)} for i in range(len(index))]


async def test_one_source_is_one_part_named_after_it() -> None:
    """Without a mapping each object of a single source is a sample, in the order of the names."""
    index = await SampleIndex.build([memory("data", "b.pt", "a/z.npy", "a/b/c.safetensors", "ä ö.json", "B.pt")])
    assert names(index) == ["B", "a/b/c", "a/z", "b", "ä ö"]
    assert index.parts == ("data",)
    row = index.rows(1)[0]
    assert (row.part, row.source, row.path, row.start, row.length, row.size) == (
        "data",
        0,
        "a/b/c.safetensors",
        0,
        17,
        17,
    )
    assert not row.is_range


async def test_the_layout_of_existing_trainers_is_found() -> None:
    """`.precomputed/` is looked into, `latent_` and `condition_` are not part of a name, nested folders are."""
    source = memory(
        "data",
        ".precomputed/latents/a/latent_0001.pt",
        ".precomputed/conditions/a/condition_0001.pt",
        ".precomputed/latents/latent_0001.pt",
        ".precomputed/conditions/condition_0001.pt",
        "media/0001.json",
    )
    index = await SampleIndex.build([source], data_mapping=TRAINER)
    assert names(index) == ["0001", "a/0001"]
    assert index.parts == ("latent_conditions", "text_conditions")
    assert paths(index)[1] == {
        "latent_conditions": (0, ".precomputed/latents/a/latent_0001.pt"),
        "text_conditions": (0, ".precomputed/conditions/a/condition_0001.pt"),
    }


async def test_without_a_mapping_the_precomputed_folders_are_the_parts() -> None:
    """A root with `.precomputed/` and no mapping has a part for each folder in there."""
    source = memory("data", ".precomputed/latents/1.pt", ".precomputed/conditions/1.pt", "clip.json")
    index = await SampleIndex.build([source])
    assert (index.parts, names(index)) == (("text_conditions", "latent_conditions"), ["1"])


async def test_a_list_of_names_is_the_identity() -> None:
    """A list means that each name is its own key, and folders right below the root are found too."""
    index = await SampleIndex.build([memory("data", "text/1.json", "audio/1.npy")], data_mapping=["text", "audio"])
    assert paths(index) == [{"text": (0, "text/1.json"), "audio": (0, "audio/1.npy")}]


async def test_names_of_sources_are_parts() -> None:
    """Several sources without common folders are parts under their own names, or as the mapping says."""
    sources = [memory("video", "a/1.pt", "a/2.pt"), memory("text", "a/2.json.zst", "a/1.json")]
    for mapping, keys in ((None, ("video", "text")), ({"text": "t", "video": "v"}, ("t", "v"))):
        index = await SampleIndex.build(sources, data_mapping=mapping)
        assert (index.parts, names(index)) == (keys, ["a/1", "a/2"])
    assert paths(index)[1] == {"t": (1, "a/2.json.zst"), "v": (0, "a/2.pt")}


async def test_a_source_that_is_a_part_may_have_its_objects_in_precomputed() -> None:
    """`.precomputed/` is not part of a name, also if a whole source is one part."""
    sources = [memory("a", ".precomputed/x/1.pt"), memory("b", "x/1.pt")]
    assert names(await SampleIndex.build(sources, data_mapping=["a", "b"])) == ["x/1"]


async def test_sources_with_the_same_folders_are_copies() -> None:
    """The first source that has all of a sample serves it; a folder found nowhere else is taken where it is."""
    primary = memory("primary", "latents/1.pt", "conditions/1.pt", "latents/2.pt")
    backup = memory("backup", *(f"{part}/{n}.pt" for part in ("latents", "conditions") for n in (1, 2, 3)))
    index = await SampleIndex.build([primary, backup], data_mapping=["latents", "conditions"])
    assert [{source for source, _ in sample.values()} for sample in paths(index)] == [{0}, {1}, {1}]


async def test_parts_may_come_from_different_copies_if_no_copy_has_both() -> None:
    """A sample that no copy has whole is put together from the first copy of each part."""
    sources = [memory("one", "x/1.pt", "y/2.pt", "x/2.pt"), memory("two", "y/1.pt")]
    index = await SampleIndex.build(sources, data_mapping=["x", "y"])
    assert paths(index) == [{"x": (0, "x/1.pt"), "y": (1, "y/1.pt")}, {"x": (0, "x/2.pt"), "y": (0, "y/2.pt")}]


@pytest.mark.parametrize("rename", [{"_caption": "", "img-": ""}, {"img-": "", "_caption": ""}])
async def test_rename_makes_names_equal(rename: Mapping[str, str]) -> None:
    """Texts in names are replaced before they are matched, in the order given."""
    source = memory("data", "images/img-7.pt", "captions/7_caption.json")
    assert names(await SampleIndex.build([source], data_mapping=["images", "captions"], rename=rename)) == ["7"]


async def test_rename_reaches_folders_and_keeps_them() -> None:
    """A rule may rewrite the folder too, and the name keeps what is left of it."""
    source = memory("data", "images/day1/cam/7.pt", "text/day1/7.json")
    index = await SampleIndex.build([source], data_mapping=["images", "text"], rename={"/cam/": "/"})
    assert names(index) == ["day1/7"]


async def test_prefixes_of_parts_are_cut_only_where_there_are_several_parts() -> None:
    """A data set of one part keeps its names; with more, the singular of any part's name is cut."""
    source = memory("data", "stories/story_1.json", "latents/latent_1.pt", "reference_latents/latent_1.pt")
    assert names(await SampleIndex.build([source], data_mapping=["stories"])) == ["story_1"]
    mapping = ["stories", "latents", "reference_latents"]
    assert names(await SampleIndex.build([source], data_mapping=mapping)) == ["1"]


async def test_a_missing_part_is_an_error_that_names_everything() -> None:
    """It says sample, part, key, where it was looked for, what was found instead, and how many are concerned."""
    sources = [memory("main", "latents/1.pt", "conditions/1.pt", "latents/2.pt"), memory("copy", "conditions/1.pt")]
    with pytest.raises(MissingPart) as caught:
        await SampleIndex.build(sources, data_mapping=TRAINER)
    text = str(caught.value)
    for detail in ("'2'", "'conditions'", "'text_conditions'", "'main'", "'copy'", "'latents/2.pt'", "1 of 2", "drop"):
        assert detail in text
    assert (caught.value.path, caught.value.source) == ("latents/2.pt", "main")


async def test_samples_that_lack_a_part_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, counted and logged, and the others stay aligned."""
    source = memory("data", "x/1.pt", "x/2.pt", "x/3.pt", "y/1.pt", "y/3.pt", "y/4.pt")
    with caplog.at_level(logging.INFO, "streaming"):
        index = await SampleIndex.build([source], data_mapping=["x", "y"], missing="drop")
    assert (names(index), index.dropped) == (["1", "3"], 2)
    assert paths(index)[1] == {"x": (0, "x/3.pt"), "y": (0, "y/3.pt")}
    assert "dropped=2 of=4" in caplog.text


async def test_dropping_everything_is_an_error() -> None:
    """Names that never match leave no sample, which is an error."""
    with pytest.raises(NoSamples, match=r"2 of samples that lack a part.*check data_mapping"):
        await SampleIndex.build([memory("data", "x/a.pt", "y/b.pt")], data_mapping=["x", "y"], missing="drop")


@pytest.mark.parametrize(
    ("objects", "rename"),
    [
        (["x/a.pt", "x/a.npy"], {}),
        (["x/a.pt.zst", "x/a.npy"], {}),
        (["x/a.pt", "x/a.pt.zst", "x/a.npy"], {}),
        (["x/a.pt", "x/a.PT"], {}),
        (["x/a.jsonl", "x/a.pt"], {}),
        (["x/a.pt", "x/b.pt"], {"b": "a"}),
    ],
)
async def test_two_objects_of_one_name_are_refused_by_name(objects: list[str], rename: Mapping[str, str]) -> None:
    """The message names sample, source and both objects."""
    with pytest.raises(DuplicateName, match=r"sample 'a' has \d objects for its part 'x' in source 'data'") as caught:
        await SampleIndex.build([memory("data", *objects)], data_mapping=["x"], rename=rename)
    assert all(repr(path) in str(caught.value) for path in objects)


@pytest.mark.parametrize("suffix", [".pt", ".jsonl"])
async def test_a_plain_object_is_preferred_to_its_compressed_copy(suffix: str) -> None:
    """`x.pt` and `x.pt.zst` are one object, and so are lines and their compressed copy; alone, either serves."""
    source = memory("data", f"a{suffix}", f"a{suffix}.zst", "b.pt.zst")
    index = await SampleIndex.build([source])
    assert [sample["data"][1] for sample in paths(index)] == [f"a{suffix}", "b.pt.zst"]


async def test_hidden_and_unreadable_files_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Hidden files and folders are only counted; files that no codec reads are warned of."""
    source = memory("data", ".hid/a.pt", "x/.b.pt", "README", "x/notes.docx", "a/.precomputed/b.pt", "c.pt", ".pt")
    with caplog.at_level(logging.DEBUG, "streaming"):
        index = await SampleIndex.build([source])
    assert names(index) == ["c"]
    [message] = [record.getMessage() for record in caplog.records if record.name.startswith("streaming.")]
    assert "2 with a suffix that no codec reads (no suffix 1, .docx 1; first 'README')" in message
    assert index.skipped_objects == 6


@pytest.mark.parametrize("mapping", [None, TRAINER, ["anything"]])
async def test_a_source_without_objects_has_no_samples(mapping: dict[str, str] | list[str] | None) -> None:
    """An empty source is an empty data set, whatever the mapping."""
    index = await SampleIndex.build([memory("data")], data_mapping=mapping)
    assert (len(index), index.total_bytes, index.max_object_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("mapping", "nearest"),
    [
        (["latent"], "did you mean 'latents'"),
        (["sidee"], "did you mean 'side'"),
        (["zzz"], "known: latents, main, side"),
    ],
)
async def test_a_mapping_to_nothing_is_refused_with_the_nearest_name(mapping: list[str], nearest: str) -> None:
    """A name must be a source or a folder; folders in `.precomputed/` are known too."""
    sources = [memory("main", ".precomputed/latents/1.pt"), memory("side", "1.pt")]
    with pytest.raises(ConfigError, match=f"data_mapping names '{mapping[0]}'.*{nearest}"):
        await SampleIndex.build(sources, data_mapping=mapping)


async def test_a_source_listed_twice_is_refused(tmp_path: Path) -> None:
    """By its name, and by its place also through a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    same = [LocalDataSource(DataSourceConfig(name, "local", tmp_path / name)) for name in ("real", "link")]
    with pytest.raises(IndexBuildError, match="'real' and 'link' are the same location"):
        await SampleIndex.build(same)
    with pytest.raises(IndexBuildError, match="two sources are named 'a'"):
        await SampleIndex.build([memory("a"), memory("a")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": "skip"}, "missing='skip'"),
        ({"rename": {"": "x"}}, "empty text"),
        ({"data_mapping": {"data": "idx"}}, "'idx' is taken"),
    ],
)
async def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    """A value that cannot be used is in the message."""
    with pytest.raises(ConfigError, match=message):
        await SampleIndex.build([memory("data", "a.pt")], **arguments)  # type: ignore[arg-type]


async def test_a_rename_that_leaves_no_name_is_refused() -> None:
    """A sample must have a name."""
    with pytest.raises(IndexBuildError, match="makes the name of a sample empty"):
        await SampleIndex.build([memory("data", "a.pt")], rename={"a": ""})


async def test_a_source_that_cannot_be_listed_fails_the_build(tmp_path: Path) -> None:
    """A missing root is an error, not an empty data set, and the other listing is ended."""
    gone = LocalDataSource(DataSourceConfig("gone", "local", tmp_path / "gone"))
    with pytest.raises(ObjectNotFoundError, match="gone"):
        await SampleIndex.build([memory("data", "a.pt"), gone])


async def test_names_of_any_bytes_survive(tmp_path: Path) -> None:
    """Spaces, percent signs, 255 bytes and names that are not UTF-8 come back as the source listed them."""
    odd = ["a b", "50%20", "q?#&", "ü" * 100 + "x" * 49, "日本"]
    for name in odd:
        (tmp_path / f"{name}.json").write_text(name)
    (tmp_path / os.fsdecode(b"\xff\xfe.json")).write_text("bytes")
    async with LocalDataSource(DataSourceConfig("data", "local", tmp_path)) as source:
        index = await SampleIndex.build([source])
        assert sorted(names(index)) == sorted([*odd, os.fsdecode(b"\xff\xfe")])
        for i in range(len(index)):
            assert (await source.read(index.rows(i)[0].path)).size == index.rows(i)[0].size


async def test_a_path_that_is_not_text_is_refused() -> None:
    """A path that no file system can hold is named in the error."""
    with pytest.raises(IndexBuildError, match=r"\\ud800"):
        await SampleIndex.build([memory("data", "\ud800.pt")])


async def test_a_path_too_long_for_the_format_is_refused() -> None:
    """What cannot be written down is refused with its length and the limit."""
    with pytest.raises(IndexBuildError, match="70003 bytes, and at most 65535"):
        await SampleIndex.build([memory("data", "x" * 70_000 + ".pt")])


NAMES = st.sets(st.text("ab/_ü", min_size=1, max_size=6).map(lambda text: f"n{text}n"), max_size=12)


@settings(deadline=None)  # a build takes a thread, which a busy machine starts late
@given(NAMES, NAMES, NAMES, st.booleans())
async def test_every_sample_is_its_name_in_every_part(
    first: set[str], second: set[str], copy: set[str], is_compressed: bool
) -> None:
    """Whatever is listed, each sample's objects have its name, all complete samples are there once, and in order."""
    suffix = ".json.zst" if is_compressed else ".npy"
    main = [f"x/{name}.pt" for name in first] + [f"y/{name}{suffix}" for name in second]
    sources = [memory("main", *main), memory("copy", *(f"x/{name}.pt" for name in copy))]
    if not second or not first | copy:
        return
    mapping = {"x": "one", "y": "two"}
    if not (first | copy) & second:
        with pytest.raises(NoSamples):
            await SampleIndex.build(sources, data_mapping=mapping, missing="drop")
        return
    index = await SampleIndex.build(sources, data_mapping=mapping, missing="drop")
    assert names(index) == sorted((first | copy) & second)
    assert index.dropped == len((first | copy) ^ second)
    for name, sample in zip(names(index), paths(index), strict=True):
        assert sample == {"one": (0 if name in first else 1, f"x/{name}.pt"), "two": (0, f"y/{name}{suffix}")}
