"""`streaming index`: match the samples of several sources and save their index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streaming.cli.exit_codes import check_output
from streaming.cli.printing import human_bytes, print_json, print_line
from streaming.errors import ConfigError

if TYPE_CHECKING:
    from streaming.index import SampleIndex

__all__ = ["build_index"]


def build_index(
    urls: Sequence[str],
    output: Path | None,
    mapping: Sequence[str],
    missing: str,
    as_json: bool,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    refresh: bool = False,
) -> None:
    """Build the index of the sources, save it to `output`, and print its contents.

    Args:
        include, exclude: globs for each source.
        refresh: compare the index saved in `output` with the sources, and report changes.

    Raises:
        ConfigError: the mapping or the output cannot be used.
        IndexBuildError: the samples cannot be matched.
        IndexFileError: with `refresh`, the file is damaged or of other sources or settings.
    """
    if output is not None:
        check_output(output)
    if refresh and (output is None or not output.exists()):
        raise ConfigError("--refresh needs -o FILE with a saved index; leave it out to build one")
    configs = [{"path": url, "include": tuple(include), "exclude": tuple(exclude)} for url in urls]
    rules = {"data_mapping": _parse_mapping(mapping), "missing": missing}
    index, changes = asyncio.run(_build(configs, rules, output if refresh else None))
    if output is not None:
        index.save(output)
    parts = sorted({row.part for row in index.rows(0)}) if len(index) else []
    counts = {
        "samples": len(index),
        "parts": parts,
        "dropped": index.dropped,
        "skipped_objects": index.skipped_objects,
        "skipped": index.skips.counts,
        "unlikely": index.unlikely.counts,
        "saved": None if output is None else str(output),
        "saved_bytes": None if output is None else output.stat().st_size,
        "changes": changes,
    }
    if as_json:
        print_json(counts)
        return
    print_line(f"{counts['samples']} samples of {', '.join(parts) or 'no parts'}; {counts['dropped']} dropped")
    if changes is not None:
        print_line(", ".join(f"{count} {kind}" for kind, count in changes.items()) + " since it was saved")
    if index.skips:
        print_line(f"{index.skips.total()} objects in no sample: {index.skips.describe()}")
    if index.unlikely:
        print_line(f"{index.unlikely.total()} objects that may not be meant as samples: {index.unlikely.describe()}")
    if output is not None:
        print_line(f"saved in {output}, {human_bytes(output.stat().st_size)}")


async def _build(
    configs: Sequence[dict[str, Any]], rules: dict[str, Any], saved: Path | None
) -> tuple[SampleIndex, dict[str, int] | None]:
    """Return the index of the sources, and how many samples differ from the saved index, if there is one."""
    from streaming.index import SampleIndex
    from streaming.index import rules as rules_of
    from streaming.sources import create_data_source

    async with AsyncExitStack() as stack:
        sources = [await stack.enter_async_context(create_data_source(each)) for each in configs]
        if saved is None:
            return await SampleIndex.build(sources, **rules), None
        before = SampleIndex.open(saved, expect=rules_of(sources, **rules))
        changes = await before.revalidate(sources)
        found = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
        return changes.index, {kind: len(names) for kind, names in found.items()}


def _parse_mapping(pairs: Sequence[str]) -> dict[str, str] | None:
    mapping = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not (name and equals and key):
            raise ConfigError(f"--mapping {pair!r} is not NAME=KEY; write for example --mapping latents=latent")
        mapping[name] = key
    return mapping or None
