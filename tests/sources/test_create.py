"""Every way to name a source, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import streaming.sources
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError
from streaming.sources import (
    GCSDataSource,
    HTTPDataSource,
    HuggingFaceDataSource,
    LocalDataSource,
    MemorySource,
    S3DataSource,
    create_data_source,
    register_scheme,
)


def test_any_way_to_name_a_source(tmp_path: Path) -> None:
    """A configuration, a dict with long or short names, a path, a URL, and a source itself all make a source."""
    config = DataSourceConfig("disk", "local", str(tmp_path))
    assert create_data_source(config).config is config
    for value in (
        {"name": "disk", "source_type": "local", "path_or_uri": str(tmp_path)},
        {"name": "disk", "type": "local", "path": str(tmp_path)},
        str(tmp_path),
        tmp_path.as_uri(),
    ):
        assert isinstance(create_data_source(value), LocalDataSource)
    assert isinstance(create_data_source("http://localhost/x"), HTTPDataSource)
    assert isinstance(create_data_source("https://localhost/x"), HTTPDataSource)
    assert isinstance(create_data_source("s3://bucket/x"), S3DataSource)
    assert isinstance(create_data_source("gs://bucket/x"), GCSDataSource)
    assert isinstance(create_data_source("hf://datasets/org/name"), HuggingFaceDataSource)
    memory = create_data_source("memory://name")
    assert isinstance(memory, MemorySource)
    assert create_data_source(memory) is memory


def test_unknown_schemes_are_refused() -> None:
    """An unknown scheme is refused, with the known ones."""
    with pytest.raises(ConfigError, match="local"):
        create_data_source("ftp://host/x")


def test_schemes_can_be_registered() -> None:
    """A scheme made known from elsewhere works in URLs and dicts."""
    register_scheme("contract-test", lambda config: MemorySource(config, {"a": b"1"}))
    for value in ("contract-test://x", {"name": "x", "type": "contract-test", "path": "contract-test://x"}):
        assert isinstance(create_data_source(value), MemorySource)


def test_public_names_exist() -> None:
    """Every public name can be had, and no other is made up."""
    assert all(hasattr(streaming.sources, name) for name in streaming.sources.__all__)
    assert not hasattr(streaming.sources, "FTPDataSource")


def test_import_is_light() -> None:
    """Importing the sources loads no client and no configuration library."""
    heavy = "'torch', 'numpy', 'pydantic', 'obstore', 'aiohttp', 'aiofiles'"
    code = f"import sys, streaming.sources; print([m for m in ({heavy}) if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
