"""Write requirements*.txt: what the image installs, with the hash of every file that PyPI has of it.

Run after a change of constraints.txt or of the dependencies in pyproject.toml; a test compares the versions. Needs `uv`
on the path and PyPI. What only torch needs for CUDA lies in a file of its own, so that a build without CUDA can leave
it out; what the extras s3, gcs and hf need beyond the core in another.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLOUDS = ("s3", "gcs", "hf")
FOR_CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
HEAD = "# Made by lock.py: change constraints.txt or pyproject.toml and run that.\n"


def resolve(*options: str) -> dict[str, str]:
    """The requirements of pyproject.toml with all that they need, as text by name."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "-c", "constraints.txt"]
    done = subprocess.run([*command, *options, "pyproject.toml"], cwd=HERE.parent, stdout=subprocess.PIPE, check=True)
    entries = re.split(r"^(?=\S)", done.stdout.decode(), flags=re.MULTILINE)[1:]
    return {entry.partition("==")[0]: entry for entry in entries}


def write(name: str, entries: dict[str, str]) -> None:
    """Write one of the files."""
    (HERE / name).write_text(HEAD + "".join(entries.values()))


if __name__ == "__main__":
    core = resolve()
    clouds = resolve(*(f"--extra={extra}" for extra in CLOUDS))
    write("requirements-torch.txt", {name: text for name, text in core.items() if FOR_CUDA.fullmatch(name)})
    write("requirements.txt", {name: text for name, text in core.items() if not FOR_CUDA.fullmatch(name)})
    write("requirements-clouds.txt", {name: text for name, text in clouds.items() if name not in core})
