"""Settings: what is accepted, what is refused and how, and that no secret is ever printed."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.adapter_config import AdapterConfig, load_config, parse_mapping
from streaming.core.masking import mask_secrets
from streaming.core.source_config import DataSourceConfig, parse_source
from streaming.core.units import parse_duration, parse_size
from streaming.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8GiB", 8 * 2**30), ("1.5 kB", 1500), ("512", 512), ("2m", 2_000_000), (7, 7), (1e9, 10**9)],
)
def test_sizes_are_decimal_unless_they_say_binary(text: str | int, size: int) -> None:
    """GB is 10^9 bytes, GiB is 2^30, and a plain number is bytes."""
    assert parse_size(text) == size


@given(st.integers(0, 2**53))
def test_a_whole_number_of_bytes_survives_as_text(size: int) -> None:
    """A size written as digits with a B reads back exactly."""
    assert parse_size(f"{size}B") == parse_size(size) == size


@pytest.mark.parametrize("bad", ["8XB", "", "-1GB", -1, 1.5, True, None, float("nan"), "1e9"])
def test_a_size_that_is_none_is_refused_with_its_value(bad: object) -> None:
    """Text without a known unit, negative numbers and fractions of a byte are refused, and the message shows them."""
    with pytest.raises(ConfigError, match="is not a size") as caught:
        parse_size(bad)  # type: ignore[arg-type]
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10m", 600), ("1h30m", 5400), ("60", 60), (2.5, 2.5), ("1d", 86400)]
)
def test_times_are_seconds_unless_they_say_otherwise(text: str | float, seconds: float) -> None:
    """Units may be combined, and a plain number is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("bad", ["10 weeks", "", "-5s", -5, float("inf"), True, None, "m10"])
def test_a_time_that_is_none_is_refused_with_its_value(bad: object) -> None:
    """Unknown units, negative and infinite times are refused, and the message shows them."""
    with pytest.raises(ConfigError, match="is not a time") as caught:
        parse_duration(bad)  # type: ignore[arg-type]
    assert repr(bad) in str(caught.value)


def test_a_source_is_made_by_position_as_old_code_does(tmp_path: Path) -> None:
    """Name, type, path and credentials may be given without names, and a path object is taken as text."""
    config = DataSourceConfig("main", "FILE", tmp_path, {"token": "t0p"}, timeout_s="2m")
    assert (config.name, config.source_type, config.path_or_uri) == ("main", "local", str(tmp_path))
    assert config.credentials is not None
    assert config.credentials["token"].get_secret_value() == "t0p"
    assert config.timeout_s == 120


@pytest.mark.parametrize(
    ("url", "name", "kind", "root"),
    [
        ("/data/train set/", "train set", "local", "/data/train set/"),
        ("data/a", "a", "local", "data/a"),
        ("file:///data/a%20b", "a b", "local", "/data/a b"),
        ("HTTP://host:8000/x/y/?v=1", "y", "http", "HTTP://host:8000/x/y/?v=1"),
        ("https://host", "host", "http", "https://host"),
        ("memory://box", "box", "memory", "memory://box"),
        ("/", "local", "local", "/"),
    ],
)
def test_a_url_says_type_root_and_name(url: str, name: str, kind: str, root: str) -> None:
    """The scheme gives the type and the last component the name."""
    config = DataSourceConfig.from_url(url)
    assert (config.name, config.source_type, config.path_or_uri) == (name, kind, root)
    assert DataSourceConfig.from_url(url, "other").name == "other"


def test_short_names_are_understood_in_a_mapping() -> None:
    """`type` with `path`, `url` or `uri` means the long names, and what is left out follows from the path."""
    long = DataSourceConfig("a", "http", "http://h/a")
    assert parse_source({"type": "http", "url": "http://h/a"}) == long
    assert parse_source({"name": "a", "uri": "http://h/a"}) == long
    assert parse_source("http://h/a") == parse_source(long) == long
    assert parse_source({"path": "/x/a", "type": "local"}) == parse_source(Path("/x/a"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "a", "path": "/x", "tpye": "local"}, "unknown setting 'tpye' of a source: did you mean 'type'"),
        ({"name": "a", "path": "/x", "path_or_uri": "/y"}, "given twice"),
        ({"name": "a", "type": "local"}, "'a' has no path"),
        ({"path": "/x", "type": "lokal"}, "source_type='lokal' .* did you mean 'local'"),
        ({"path": "/x", "timeout_s": 0}, "timeout_s=0 .* greater than 0"),
        ({"path": "/x", "timeout_s": "soon"}, "timeout_s='soon' .* is not a time"),
        ({"path": "/x", "max_object_bytes": "-1GB"}, "max_object_bytes='-1GB'"),
        ({"path": "/x", "type": "http"}, "needs a URL like http://"),
        ({"path": "http://", "name": "a"}, "needs a URL like http://"),
        ({"path": "file://elsewhere/x"}, "needs a path"),
        ({"path": "/x\0y"}, "must not contain NUL"),
        ({"path": "/x", "mirrors": "/y"}, "mirrors: "),
        (17, "not int"),
    ],
)
def test_a_bad_source_is_refused_with_its_value_and_a_next_step(source: object, message: str) -> None:
    """What cannot be used is named, with the nearest name that could have been meant."""
    with pytest.raises(ConfigError, match=message):
        parse_source(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("s3://bucket/latents", "s3", "latents"),
        ("gs://bucket", "gcs", "bucket"),
        ("gcs://bucket/a/", "gcs", "a"),
        ("hf://datasets/org/name@v1", "huggingface", "name@v1"),
    ],
)
def test_a_url_of_a_cloud_names_its_type(url: str, kind: str, name: str) -> None:
    """The scheme says which type of source it is."""
    config = parse_source(url)
    assert (config.source_type, config.name, config.path_or_uri) == (kind, name, url)


def test_no_secret_is_printed() -> None:
    """Credentials, the login of a URL, signed queries and secret options are masked in every text form."""
    config = DataSourceConfig(
        "a",
        "http",
        "http://bob:hunter2@h/x?X-Amz-Signature=hunter2&part=1",
        {"password": "hunter2"},
        storage_options={"headers": {"Authorization": "hunter2"}, "proxies": ["http://u:hunter2@p/"], "pool": 3},
        mirrors=["http://bob:hunter2@mirror/x"],
    )
    texts = [repr(config), str(config), f"{config}", repr([config]), repr(AdapterConfig(sources=[config]))]
    texts += [repr(pickle.loads(pickle.dumps(config))), config.shown_uri]
    assert not [text for text in texts if "hunter2" in text]
    assert "part=1" in config.shown_uri
    assert "'pool': 3" in repr(config)


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "/x", "credentials": {"key": ["hunter2"]}},
        {"path": "/x", "credentials": "hunter2"},
        {"path": "http://bob:hunter2@h/", "type": "local"},
        {"path": "http://h/", "mirrors": [{"path": "http://bob:hunter2@m/", "timeout_s": -1}]},
        {"path": "/x", "storage_options": ["hunter2"]},
    ],
)
def test_no_secret_is_in_a_refusal(settings: dict[str, object]) -> None:
    """An error about a value with a secret in it does not show the secret, nor does what it was raised from."""
    with pytest.raises(ConfigError) as caught:
        AdapterConfig(sources=[settings])
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


def test_settings_survive_a_pickle_and_refuse_to_be_changed() -> None:
    """A spawned child gets the same settings, secrets included; nobody changes them in place."""
    config = DataSourceConfig("a", "memory", "memory://a", {"token": "t0p"}, mirrors=["/b"])
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.name = "b"


def test_masking_leaves_plain_text_alone() -> None:
    """Only logins and secret query values are replaced."""
    plain = "open /a@b/c?d=e: http://h/x@y?page=2#z"
    assert mask_secrets(plain) == plain
    assert mask_secrets("at http://u:p@h/x?token=abc&n=1, then") == "at http://***@h/x?token=***&n=1, then"


def test_the_adapters_settings_have_the_defaults_of_the_reference() -> None:
    """Only the sources must be given."""
    config = AdapterConfig(sources="/x")
    assert [source.name for source in config.sources] == ["x"]
    assert (config.cache_size_gb, config.max_ttl_seconds) == (10.0, None)
    assert (config.compression_type, config.missing, config.policy, config.seed) == ("zstd", "raise", "auto", 0)


def test_the_budget_may_be_a_size() -> None:
    """`cache_size` is the same setting in bytes; both at once are refused."""
    assert AdapterConfig(sources=["/x"], cache_size="2GiB").cache_size_gb == 2 * 2**30 / 10**9
    with pytest.raises(ConfigError, match="keep one"):
        AdapterConfig(sources=["/x"], cache_size="2GiB", cache_size_gb=1)
    with pytest.raises(ConfigError, match="cache_size='lots' cannot be used"):
        AdapterConfig(sources=["/x"], cache_size="lots")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cache_size_gb", 0, "cache_size_gb=0 .* greater than 0"),
        ("cache_size_gb", -1, "cache_size_gb=-1"),
        ("cache_size_gb", float("nan"), "cache_size_gb=nan"),
        ("cache_size", 0, "cache_size_gb=0.0"),
        ("max_ttl_seconds", -5, "max_ttl_seconds=-5"),
        ("sources", [], "at least 1 item .*at least one path"),
        ("compression_type", "gzip", "compression_type='gzip' .* 'zstd' or 'none'"),
        ("missing", "ignore", "missing='ignore' .* 'raise' or 'drop'"),
        ("policy", "fifo", "policy='fifo'"),
        ("prefetch_ahead", -1, "prefetch_ahead=-1"),
        ("concurrency", 0, "concurrency=0"),
        ("decode_threads", "many", "decode_threads='many'"),
        ("data_mapping", {"a": "k", "b": "k"}, "the keys must differ"),
        ("data_mapping", {"a": "idx"}, "'idx' is taken"),
        ("data_mapping", ["a", "a"], "a list of different names"),
        ("data_mapping", "a", "a list of different names"),
        ("data_mapping", {}, "at least one name"),
        ("data_mapping", {"a": 3}, "both as text"),
        ("cach_size", 1, "unknown setting 'cach_size': did you mean 'cache_size'"),
        ("zzz", 1, "unknown setting 'zzz': known: cache_size"),
        ("rename", {"a": "x" * 500, "b": 3}, "rename.b"),
    ],
)
def test_a_bad_setting_is_refused_with_its_value_and_a_next_step(setting: str, value: object, message: str) -> None:
    """Each refusal is a ConfigError, which is a ValueError, and says what was given and what would do."""
    with pytest.raises(ConfigError, match=message) as caught:
        AdapterConfig(**{"sources": ["/x"], setting: value})
    assert isinstance(caught.value, ValueError)


def test_paths_of_one_name_are_told_apart() -> None:
    """Names taken from paths are numbered where they would be the same; given names are left alone."""
    config = AdapterConfig(sources=["/a/pre", "/b/pre", {"name": "pre-2", "path": "/c"}, "/d/pre"])
    assert [source.name for source in config.sources] == ["pre", "pre-3", "pre-2", "pre-4"]


def test_a_source_object_passes_as_it_is() -> None:
    """What already can list its files is not parsed again."""

    class Ready:
        name = "ready"
        iter_files = None

    ready = Ready()
    assert AdapterConfig(sources=[ready]).sources == [ready]


def test_a_list_maps_names_to_themselves() -> None:
    """A list of names is the identity, and nothing stays nothing."""
    assert parse_mapping(["a", "b"]) == {"a": "a", "b": "b"}
    assert parse_mapping({"a": "x"}) == {"a": "x"}
    assert parse_mapping(None) is None


def test_changing_a_copy_checks_it_again() -> None:
    """`replace` returns new settings, and refuses what a constructor would."""
    config = AdapterConfig(sources=["/x"], cache_size="2GB")
    assert config.replace(enable_prefetch=False).enable_prefetch is False
    assert config.replace(seed=3).cache_size_gb == 2
    with pytest.raises(ConfigError, match="policy='fifo'"):
        config.replace(policy="fifo")


def test_yaml_json_and_a_dict_mean_the_same(tmp_path: Path) -> None:
    """A file of either kind is read as the mapping that it holds; ready settings are returned."""
    settings = {"sources": [{"name": "a", "type": "local", "path": "/x"}], "cache_size": "8GB", "rename": {"a": "b"}}
    (tmp_path / "c.json").write_text(json.dumps(settings))
    (tmp_path / "c.yaml").write_text(
        "sources:\n  - {name: a, type: local, path: /x}\ncache_size: 8GB\nrename: {a: b}\n"
    )
    expected = load_config(settings)
    assert load_config(tmp_path / "c.json") == load_config(str(tmp_path / "c.yaml")) == expected
    assert load_config(expected) is expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "sources: [", "c.yaml: is not YAML"),
        ("c.json", "{", "c.json: is not JSON"),
        ("c.yaml", "- a\n- b\n", "c.yaml: settings must be a mapping"),
        ("c.yaml", "", "c.yaml: settings must be a mapping"),
        ("c.yaml", "sources: [/x]\n1: 2\n", "c.yaml: unknown setting 1"),
        ("c.yaml", "sources: [/x]\npolicy: fifo\n", "c.yaml: policy='fifo'"),
        ("c.yaml", "sources: !!python/object/apply:os.system [exit]\n", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_by_its_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The message says which file and what is wrong with it; nothing in it is run."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / name)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    """A missing file is named, and so is one that is not text."""
    with pytest.raises(ConfigError, match=r"gone.yaml: cannot be read"):
        load_config(tmp_path / "gone.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bin.yaml: cannot be read"):
        load_config(tmp_path / "bin.yaml")


def test_settings_are_read_without_torch() -> None:
    """A command that only reads settings does not wait for torch, numpy or a client library."""
    code = "import sys, streaming.core.adapter_config; print({'torch', 'numpy', 'obstore', 'yaml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_error_in_a_source_says_in_which() -> None:
    """Of several sources, and of mirrors in one, the number and the name are in the message."""
    bad = {"name": "b", "path": "/b", "timeout_s": "soon"}
    with pytest.raises(ConfigError, match=r"source 2 of 2 \('b'\): timeout_s='soon'"):
        AdapterConfig(sources=["/a", bad])
    with pytest.raises(ConfigError, match=r"source 1 of 1 \('a'\): .*source 2 of 2 \('b'\): timeout_s='soon'"):
        AdapterConfig(sources=[{"name": "a", "path": "/a", "mirrors": ["/m", bad]}])


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("https://huggingface.co/datasets/org/name", "hf://datasets/org/name"),
        ("https://huggingface.co/datasets/org/name/", "hf://datasets/org/name"),
        ("https://www.huggingface.co/datasets/org/name?row=1", "hf://datasets/org/name"),
        ("https://hf.co/org/name", "hf://org/name"),
        ("https://huggingface.co/spaces/org/name", "hf://spaces/org/name"),
        ("https://huggingface.co/datasets/org/name/tree/main", "hf://datasets/org/name@main"),
        ("https://huggingface.co/datasets/org/name/tree/v1/train/a", "hf://datasets/org/name@v1/train/a"),
        ("https://huggingface.co/datasets/org/name/blob/main/train/a.pt", "hf://datasets/org/name@main/train"),
        ("https://console.cloud.google.com/storage/browser/bucket/folder", "gs://bucket/folder"),
        ("https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=folder/", "s3://bucket/folder/"),
        ("https://eu-west-1.console.aws.amazon.com/s3/buckets/bucket", "s3://bucket"),
    ],
)
def test_a_page_for_people_is_not_taken_for_a_web_server(page, address):
    """The address of a page that shows a repository or bucket is refused, with what to write in its place."""
    for source in (page, {"path": page}, {"type": "http", "name": "x", "path": page}):
        with pytest.raises(ConfigError, match=f"{re.escape(address)}( |$|;)"):
            parse_source(source)


def test_files_of_the_hub_are_read_where_they_are_listed():
    """With URLs or an index of its own, a source may read from the Hub's host as from any other."""
    root = "https://huggingface.co/datasets/org/name/resolve/main/"
    for options in ({"urls": ["a.bin"]}, {"index": "index.txt"}):
        assert parse_source({"path": root, "storage_options": options}).path_or_uri == root
