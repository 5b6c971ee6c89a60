"""Shared parts of the benchmarks: interleaved repeats, paired ratios, and a last line of JSON with the machine in it.

A benchmark asks one question, prints a table for people, and ends in `emit`. With ``--save`` the figures go to
``benchmarks/results/<name>.json`` too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import NormalDist, fmean, median
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("aiprod-streaming", "torch", "numpy", "obstore", "aiohttp", "zstandard", "safetensors", "uvloop")


def options(description: str | None, *, repeats: int = 5, seed: int = 0) -> argparse.ArgumentParser:
    """Return a parser with `--save`, `--repeats` and `--seed`; a benchmark adds its own options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/<name>.json")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"interleaved repeats (default {repeats})")
    parser.add_argument("--seed", type=int, default=seed, help=f"seed of the data and the order (default {seed})")
    return parser


def interleaved(repeats: int, contenders: Mapping[str, Callable[[], float | None]]) -> dict[str, list[float]]:
    """Run all contenders once per repeat, each repeat beginning with the next one, so that drift affects all equally.

    Returns:
        The result of each contender in each repeat, or its seconds if it returned None.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            figure = contenders[name]()
            figures[name].append(time.perf_counter() - start if figure is None else figure)
    return figures


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum of some repeats."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum of a[i] / b[i]: a slowdown that affects both runs of a pair cancels."""
    return spread([x / y for x, y in zip(a, b, strict=True)])


def slope_with_bound(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the least-squares line through the points, and the upper bound of its 95 % interval."""
    count, mean_x, mean_y = len(x), fmean(x), fmean(y)
    around = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / around
    errors = [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y, strict=True)]
    deviation = math.sqrt(sum(error**2 for error in errors) / (count - 2) / around)
    return slope, slope + NormalDist().inv_cdf(0.975) * deviation


def table(title: str, rows: Sequence[Sequence[object]]) -> None:
    """Print rows of cells under a title, first column left, others right; floats with four digits."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    print(title)
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())


def emit(name: str, figures: Mapping[str, Any], *, seed: int = 0) -> None:
    """Print the figures as the last line, with machine, versions, seed and commit; save them with `--save`."""
    record = {"benchmark": name, "figures": dict(figures), "seed": seed, "commit": _commit(), "machine": machine()}
    line = json.dumps(record, sort_keys=True)
    if "--save" in sys.argv:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    print(line, flush=True)


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, system and relevant versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {package: found for package in PACKAGES if (found := _version(package))},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the measured commit, with a `+` if files differ from it (except saved results)."""
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*command, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = [*command, "status", "--porcelain", "--", "streaming", "benchmarks/*.py"]
        is_changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if is_changed else "")
