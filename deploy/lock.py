"""Write requirements*.txt: what the image installs, with the hash of every file that PyPI has of it.

Run it on Linux with Python 3.11, as in the image, after a change of constraints.txt or of the dependencies in
pyproject.toml; a test compares the versions. It needs pip-tools (`pip install pip-tools`) and PyPI, and takes minutes.
The files fit x86_64 and aarch64: no dependency is for one of them alone. What only torch needs for CUDA has a file of
its own, so that a build without CUDA can leave it out; so has what the extras s3, gcs and hf need beyond the core.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLOUDS = ("s3", "gcs", "hf")
FOR_CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
HEAD = "# Made by lock.py: change constraints.txt or pyproject.toml and run that.\n"
OTHER_PACKAGES = {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"}
OPTIONS = ("--quiet", "--generate-hashes", "--allow-unsafe", "--strip-extras", "--no-header", "--no-annotate")


def resolve(*options: str) -> dict[str, str]:
    """Return the requirements of pyproject.toml with all their dependencies, as text by name."""
    command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, "-c", "constraints.txt", "--output-file", "-"]
    # Another index or folder of wheels may have another build of a version, such as torch for CPUs.
    environment = {name: value for name, value in os.environ.items() if name not in OTHER_PACKAGES}
    environment |= {"PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [*command, *options, "pyproject.toml"], cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, check=True
    )
    return by_name(done.stdout.decode())


def by_name(text: str) -> dict[str, str]:
    """Split the text of pip-compile into packages, sorted; its comments are left out."""
    entries = re.findall(r"^[^\s#].*\n(?:[ ]+.*\n)*", text, re.MULTILINE)
    return dict(sorted((entry.partition("==")[0], entry) for entry in entries))


def write(name: str, entries: dict[str, str]) -> None:
    """Write one of the files."""
    (HERE / name).write_text(HEAD + "".join(entries.values()))


if __name__ == "__main__":
    core = resolve()
    clouds = resolve(*(f"--extra={extra}" for extra in CLOUDS))
    write("requirements-torch.txt", {name: text for name, text in core.items() if FOR_CUDA.fullmatch(name)})
    write("requirements.txt", {name: text for name, text in core.items() if not FOR_CUDA.fullmatch(name)})
    write("requirements-clouds.txt", {name: text for name, text in clouds.items() if name not in core})
