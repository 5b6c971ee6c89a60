"""Write the dashboards next to this file, or check that they are up to date.

    python dashboards/generate.py            write overview.json sources.json cache.json training.json
    python dashboards/generate.py --check    write nothing; exit 1 and name those that are stale

The same code gives the same bytes: ids count the panels, uids are made of the names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # run as a file, Python looks into this folder alone

from dashboards.cache import cache  # noqa: E402
from dashboards.overview import overview  # noqa: E402
from dashboards.sources import sources  # noqa: E402
from dashboards.training import training  # noqa: E402

__all__ = ["DASHBOARDS", "main", "render", "stale"]

DASHBOARDS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "overview": overview,
    "sources": sources,
    "cache": cache,
    "training": training,
}
"""Name of each file, and the function that makes its content."""


def render(name: str) -> str:
    """A dashboard as the text of its file."""
    return json.dumps(DASHBOARDS[name](), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the dashboards whose files in the folder are missing or differ."""
    files = {name: folder / f"{name}.json" for name in DASHBOARDS}
    return [name for name, file in files.items() if not file.exists() or file.read_text("utf-8") != render(name)]


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make the Grafana dashboards.", epilog="python dashboards/generate.py")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is stale")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        names = stale(chosen.folder)
        if names:
            sys.stderr.write(f"stale: {', '.join(names)}; run python dashboards/generate.py and commit the files\n")
        return 1 if names else 0
    for name in DASHBOARDS:
        (chosen.folder / f"{name}.json").write_text(render(name), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
