"""How long do imports take: `import streaming`, the adapter vs. torch, `streaming --help` vs. a bare typer app?

The adapter is timed twice: imported, and used to read one sample of a local file. The bare app has two commands and
typer's defaults, which load rich for the help; the plain one does not use rich. Each figure is the wall time of a fresh
interpreter, interleaved; a first round warms byte code and page cache.

    python benchmarks/import_time.py [--repeats 7] [--save]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from report import emit, interleaved, options, ratio, spread, table

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

ONE_SAMPLE = """
import sys
from streaming import StreamingDatasetAdapter
with StreamingDatasetAdapter(sys.argv[1], cache_size_gb=0.1) as adapter:
    adapter[0]
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands to time, by name."""
    (folder / "samples").mkdir()
    (folder / "samples" / "0.json").write_text("[1, 2, 3]")
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
        "adapter, one sample": [python, "-c", ONE_SAMPLE, str(folder / "samples")],
        "streaming --help": [python, "-m", "streaming.cli", "--help"],
        "bare typer --help": [python, str(bare), "--help"],
        "plain typer --help": [python, str(plain), "--help"],
    }


def heavy_modules_of(statement: str) -> list[str]:
    """Return the modules of HEAVY that a fresh interpreter has loaded after the statement."""
    script = f"{statement}\nimport sys, json\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    return list(json.loads(answer.stdout))


def timed(command: list[str]) -> None:
    """Run the command once."""
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each command, `repeats` times, interleaved; a first round only warms caches."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = {name: partial(timed, command) for name, command in commands(Path(folder)).items()}
        interleaved(1, contenders)
        return interleaved(repeats, contenders)


def main() -> None:
    """Measure, print a table, and one last line of JSON."""
    repeats = options(__doc__, repeats=7).parse_args().repeats
    seconds = measure(repeats)
    torch = seconds["import torch"]
    figures = {
        "loaded_by_import_streaming": heavy_modules_of("import streaming"),
        "loaded_by_import_cli": heavy_modules_of("import streaming.cli.app"),
        "adapter_over_torch_s": spread([a - b for a, b in zip(seconds["adapter"], torch, strict=True)]),
        "one_sample_over_torch_s": spread([a - b for a, b in zip(seconds["adapter, one sample"], torch, strict=True)]),
        "help_to_bare_typer": ratio(seconds["streaming --help"], seconds["bare typer --help"]),
        "help_to_plain_typer": ratio(seconds["streaming --help"], seconds["plain typer --help"]),
        "seconds": {name: spread(values) for name, values in seconds.items()},
    }
    table(
        "seconds",
        [("", "median", "min", "max"), *((name, *row.values()) for name, row in figures["seconds"].items())],
    )
    emit("import_time", figures)


if __name__ == "__main__":
    main()
