"""What importing costs: `import streaming`, the adapter beside torch, and `streaming --help` beside a bare typer app.

Each figure is the wall time of a fresh interpreter, the median of interleaved repeats. Before timing, every command
runs once, so that byte code is compiled and files are in the page cache.

    python benchmarks/import_time.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("torch", "numpy", "pydantic", "obstore")
ROOT = Path(__file__).resolve().parents[1]

BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one(url: str) -> None:
    "One."
@app.command()
def two(url: str) -> None:
    "Two."
app()
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands to time, by name."""
    bare = folder / "bare.py"
    bare.write_text(BARE_TYPER)
    plain = folder / "plain.py"
    plain.write_text(BARE_TYPER.replace("Typer()", "Typer(rich_markup_mode=None, add_completion=False)"))
    python = sys.executable
    return {
        "python": [python, "-c", "pass"],
        "import streaming": [python, "-c", "import streaming"],
        "import torch": [python, "-c", "import torch"],
        "adapter": [python, "-c", "from streaming import StreamingDatasetAdapter"],
        "streaming --help": [python, "-m", "streaming.cli", "--help"],
        "bare typer --help": [python, str(bare), "--help"],
        "bare typer --help, no rich": [python, str(plain), "--help"],
    }


def heavy_modules_of(statement: str) -> list[str]:
    """Which of HEAVY a fresh interpreter has loaded after the statement."""
    script = f"{statement}\nimport sys, json\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    return list(json.loads(answer.stdout))


def timed(command: list[str]) -> float:
    """Seconds that one run of the command takes."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, `repeats` times, taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        runs = commands(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, command in runs.items():
                took = timed(command)
                if turn:  # the first turn warms byte code and page cache
                    seconds[name].append(took)
    return seconds


def main() -> None:
    """Measure, print a table, and one last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    seconds = measure(parser.parse_args().repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:<28} {median[name]:7.3f} s   {min(values):.3f} to {max(values):.3f}")
    result = {
        "benchmark": "import_time",
        "heavy_after_import_streaming": heavy_modules_of("import streaming"),
        "heavy_after_import_cli": heavy_modules_of("import streaming.cli"),
        "adapter_over_torch_s": median["adapter"] - median["import torch"],
        "help_to_bare_typer": median["streaming --help"] / median["bare typer --help"],
        "help_to_bare_typer_without_rich": median["streaming --help"] / median["bare typer --help, no rich"],
        "seconds": seconds,
    }
    result["ok"] = (
        not result["heavy_after_import_streaming"]
        and result["adapter_over_torch_s"] <= 0.4
        and result["help_to_bare_typer"] <= 1.5
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
