"""Defaults, numbers and names in documents, docstrings and help texts are those of the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from streaming import cache
from streaming.adapter import StreamingDatasetAdapter
from streaming.cache.budget import UNKNOWN_BYTES
from streaming.cli.app import app
from streaming.core.adapter_config import DEFAULT_MAPPING, AdapterConfig
from streaming.core.config_reference import main, markdown
from streaming.core.source_config import SOURCE_TYPES, DataSourceConfig
from streaming.engine import fetch
from streaming.order import batching
from streaming.prefetch import announce_window, announced, readahead
from streaming.prefetch.async_prefetcher import AsyncPrefetcher
from streaming.resilience import ResilienceConfig
from streaming.testing import MemorySource

REPOSITORY = Path(__file__).resolve().parents[1]
REFERENCE = REPOSITORY / "docs" / "reference"
GUIDE = REPOSITORY / "INTEGRATION_GUIDE.md"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def text_of(document: str) -> str:
    """Return a document as one line, so that a sentence is found across line breaks."""
    return " ".join((REPOSITORY / document).read_text().split())


def default_of(model: Any, name: str) -> Any:
    """Return the default of a setting."""
    return model.model_fields[name].get_default(call_default_factory=True)


def test_the_reference_of_settings_is_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, run: python -m streaming.core.config_reference docs/reference/settings.md"""
    assert (REFERENCE / "settings.md").read_text() == markdown()
    assert main([str(tmp_path / "settings.md")]) == 0
    assert (tmp_path / "settings.md").read_text() == markdown()
    assert main([]) == 2
    assert "streaming.core.config_reference" in capsys.readouterr().err


@pytest.mark.parametrize("model", [AdapterConfig, DataSourceConfig])
def test_every_setting_has_a_description(model: Any) -> None:
    """Without one, the reference would have an empty cell, and an error no explanation."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_the_adapter_has_the_defaults_of_its_settings() -> None:
    """A setting has the same default as a keyword argument and in a file; None stands for an empty dict."""
    parameters = inspect.signature(StreamingDatasetAdapter).parameters
    for name in AdapterConfig.model_fields:
        if name != "sources":
            default = default_of(AdapterConfig, name)
            assert parameters[name].default == (None if default == {} else default), name


def test_the_options_of_the_adapter_are_the_same_everywhere() -> None:
    """Signature, docstring and guide have the settings of the model, in its order, and the two functions."""
    settings = AdapterConfig.model_fields
    parameters = list(inspect.signature(StreamingDatasetAdapter).parameters)
    assert [name for name in parameters if name not in ("prepare", "transform")] == list(settings)
    [rows] = re.findall(r"^\| Option \| Default \| Meaning \|\n(.*?)\n\n", GUIDE.read_text(), re.M | re.S)
    assert re.findall(r"^\| `(\w+)` \|", rows, re.M) == parameters
    docstring = " ".join((StreamingDatasetAdapter.__doc__ or "").split())
    for name, field in settings.items():
        assert f" {name}: {field.description}. " in docstring


@pytest.mark.parametrize("model", [AdapterConfig, DataSourceConfig])
def test_the_guide_has_the_defaults_of_the_settings(model: Any) -> None:
    """The guide has the default of each setting that has one."""
    table = "Setting" if model is DataSourceConfig else "Option"
    [rows] = re.findall(rf"^\| {table} \| Default \| Meaning \|\n(.*?)\n\n", GUIDE.read_text(), re.M | re.S)
    shown = dict(re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\|", rows, re.M))
    for name, field in model.model_fields.items():
        if not field.is_required():
            value, default = eval(shown[name], {}), default_of(model, name)  # such as 8 * 10**9
            assert value == (None if default == {} and value is None else default), name


def test_the_limits_that_security_promises_are_the_defaults() -> None:
    """There is one row for each setting that limits external input."""
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (REPOSITORY / "SECURITY.md").read_text(), re.M)
    assert len(rows) == 10
    for name, shown in rows:
        is_of_source = name in DataSourceConfig.model_fields
        default = default_of(DataSourceConfig, name) if is_of_source else getattr(ResilienceConfig(), name)
        assert eval(shown, {}) == default, name


@pytest.mark.parametrize(
    ("document", "sentence", "value"),
    [
        ("docs/explanation/flow.md", r"announces up to ([\d,]+) positions", announce_window.HORIZON),
        ("docs/explanation/memory.md", r"(\d+) MiB before the first", UNKNOWN_BYTES >> 20),
        ("docs/explanation/memory.md", r"Local files of over (\d+) kB", fetch.LARGE_BYTES // 1000),
        ("docs/howto/lengths.md", r"planned ([\d,]+) positions at a time", batching.WINDOW),
        ("INTEGRATION_GUIDE.md", r"most samples being read ahead at once; `None` is (\d+)", readahead.CONCURRENCY),
        (
            "streaming/core/adapter_config.py",
            r"most samples being read ahead at once; None is (\d+)",
            readahead.CONCURRENCY,
        ),
        ("streaming/prefetch/readahead.py", r"None adapts between (\d+) and", announced.START_DEPTH),
        ("streaming/prefetch/readahead.py", r"None adapts between \d+ and ([\d,]+)", announced.MAX_DEPTH),
    ],
)
def test_numbers_in_the_text_are_those_of_the_code(document: str, sentence: str, value: int) -> None:
    """Each sentence that quotes a constant has its value; a new wording needs a change here."""
    found = re.findall(sentence, text_of(document))
    assert found
    assert {int(number.replace(",", "")) for number in found} == {value}


def options() -> list[Any]:
    """Return each option of each command that has a default."""
    pairs = [(name, option) for name, command in COMMANDS.items() for option in command.params]
    return [pytest.param(name, option, id=f"{name}{option.opts[-1]}") for name, option in pairs if option.default]


@pytest.mark.parametrize(("command", "option"), options())
def test_the_defaults_of_options_are_in_the_reference(command: str, option: Any) -> None:
    """The reference names the default of each option."""
    text = (REFERENCE / "cli.md").read_text()
    [section] = re.findall(rf"^## streaming {command}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    [meaning] = re.findall(rf"^\| [^|]*`{option.opts[-1]}`[^|]* \| (.*?) \|$", section, re.M)
    default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    assert default in re.split(r"[;,\s`]+", meaning)


SCHEMES = sorted({*SOURCE_TYPES} - {"local", "memory", "https", "gcs", "huggingface"})
"""Schemes of URLs for commands, without aliases and without objects in memory."""


def urls_of(command: str) -> list[Any]:
    """Return the arguments of a command that are sources."""
    return [option for option in COMMANDS[command].params if (option.metavar or "").startswith("URL")]


@pytest.mark.parametrize("command", [name for name in COMMANDS if urls_of(name)])
def test_the_help_of_a_url_names_every_type_of_source(command: str) -> None:
    """The help text, the reference of commands and the guide name every URL scheme."""
    [argument] = urls_of(command)
    for scheme in SCHEMES:
        for text in (argument.help, text_of("docs/reference/cli.md"), GUIDE.read_text()):
            assert f"{scheme}:" in text
    assert "path" in argument.help


def test_the_types_of_sources_in_the_text_are_those_of_the_code() -> None:
    """The guide's table and the description in an error name every type."""
    kinds = set(SOURCE_TYPES.values())
    [cell] = re.findall(r"^\| `source_type` \| \| (.*?) \|$", GUIDE.read_text(), re.M)
    assert set(re.findall(r'"(\w+)"', cell)) == kinds
    description = DataSourceConfig.model_fields["source_type"].description or ""
    assert set(re.findall(r"\w+", description)) - {"or"} == kinds
    assert all(f"{scheme}:" in (DataSourceConfig.from_url.__doc__ or "") for scheme in SCHEMES)


def test_the_keys_without_a_mapping_are_in_the_text() -> None:
    """The guide, the docstring of the adapter and the description of the setting name the keys."""
    described = AdapterConfig.model_fields["data_mapping"].description or ""
    for text in (GUIDE.read_text(), StreamingDatasetAdapter.__doc__ or "", described):
        for word in (*DEFAULT_MAPPING, *DEFAULT_MAPPING.values()):
            assert word in text


def test_the_budget_of_a_node_is_divided_by_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter of one of several ranks takes the share that memory.md describes."""
    ranks = text_of("docs/explanation/memory.md").partition("## Ranks")[2]
    assert "`LOCAL_WORLD_SIZE`" in ranks
    assert "each rank takes its equal share" in ranks
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with StreamingDatasetAdapter(MemorySource("data", {"0.json": b"0"}), cache_size_gb=0.8) as adapter:
        assert adapter.cache.max_bytes == 10**8


@pytest.mark.parametrize("function", [cache.SmartLRUCache, AsyncPrefetcher, StreamingDatasetAdapter])
def test_a_docstring_describes_each_argument(function: Any) -> None:
    """Each parameter has an entry under "Args", and there is no other entry."""
    arguments = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.M)
    assert sorted(described) == sorted(inspect.signature(function).parameters)
