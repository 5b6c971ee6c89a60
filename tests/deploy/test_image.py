"""The image: the copied files exist and are sufficient, it runs unprivileged, and its command exists."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from tests.deploy.command_line import check_command

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
TEXT = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of this name."""
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{name} ")]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last line that matches it or a folder above it decides."""
    sent = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, keeps = line.removeprefix("!"), line.startswith("!")
            above = [*(str(parent) for parent in Path(path).parents if str(parent) != "."), path]
            if any(fnmatch.fnmatch(each, pattern.removeprefix("**/")) for each in (*above, Path(path).name)):
                sent = keeps
    return sent


def test_what_is_copied_exists_and_is_sent() -> None:
    """Each source of a COPY is in the repository and not kept out by .dockerignore."""
    copied = [word for line in instructions("COPY") if "--from" not in line for word in shlex.split(line)[:-1]]
    assert {"deploy/requirements.txt", "pyproject.toml", "streaming", "examples/data"} <= set(copied)
    for path in copied:
        assert (REPOSITORY / path).exists(), path
        assert is_sent(path), path
    assert is_sent("streaming/cache/sample.py")


def test_nothing_else_is_sent() -> None:
    """History, tests, environments, results and secrets stay out of the build."""
    for path in (
        ".git/config",
        ".env",
        ".venv/bin/python",
        "tests/conftest.py",
        "id_rsa",
        "examples/trainer.py",
        "deploy/compose.yaml",
    ):
        assert not is_sent(path), path
    assert not is_sent("streaming/__pycache__/cli.cpython-311.pyc")


def test_it_runs_as_a_user_without_rights() -> None:
    """The last stage sets the user by number, the same one as the pods, and is separate from the build stage."""
    [user] = instructions("USER")
    job = yaml.safe_load((REPOSITORY / "deploy" / "kubernetes" / "base" / "job.yaml").read_text())
    context = job["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert not user.startswith("0")
    assert len(instructions("FROM")) == 2


def test_its_python_is_pinned_and_can_run_the_package() -> None:
    """The tag names one supported release of Python, and one image by its digest."""
    [tag] = [line.partition("=")[2] for line in instructions("ARG") if line.startswith("PYTHON=")]
    assert re.fullmatch(r"3\.(1[1-9])\.\d+-slim-\w+@sha256:[0-9a-f]{64}", tag)


def test_every_package_is_taken_by_its_hash() -> None:
    """Each call of pip requires hashes or uses only local files, and none resolves dependencies."""
    installs = [call for line in instructions("RUN") for call in re.findall(r"pip install [^&]*", line)]
    assert len(installs) == 3
    assert all("--no-deps" in call for call in installs)
    assert ["--require-hashes" in call or "--no-index" in call for call in installs] == [True] * 3


REQUIREMENTS = {
    name: re.split(r"^(?=\S)", (REPOSITORY / "deploy" / name).read_text().partition("\n")[2], flags=re.MULTILINE)[1:]
    for name in ("requirements.txt", "requirements-torch.txt", "requirements-clouds.txt")
}


def normal(name: str) -> str:
    """Normalize the name of a package like PyPI."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(name: str) -> dict[str, str]:
    """Return the versions in one of the requirements files."""
    pairs = [entry.split()[0].partition("==") for entry in REQUIREMENTS[name]]
    return {normal(package): version for package, _, version in pairs}


def test_requirements_are_those_that_are_tested() -> None:
    """Each has a hash and the version of constraints.txt, if that has one; none is in two files."""
    tested = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, _, version = line.partition("==")
            tested[normal(package)] = version
    found: dict[str, str] = {}
    for name, entries in REQUIREMENTS.items():
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries), name
        assert not set(found) & set(versions(name))
        found |= versions(name)
    assert {package: found[package] for package in found if package in tested} == {
        package: tested[package] for package in found if package in tested
    }
    unknown = {package for package in found if package not in tested}
    assert not [each for each in unknown if not re.match(r"nvidia-|cuda-|triton", each)]


def test_requirements_hold_what_the_package_needs() -> None:
    """Every dependency of pyproject.toml and of its extras for the clouds has a version that satisfies it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    core = versions("requirements.txt") | versions("requirements-torch.txt")
    extras = [each for extra in ("s3", "gcs", "hf") for each in project["optional-dependencies"][extra]]
    clouds = core | versions("requirements-clouds.txt")
    for needed, given in ((project["dependencies"], core), (extras, clouds)):
        for requirement in map(Requirement, needed):
            assert requirement.specifier.contains(given[normal(requirement.name)]), requirement


def test_it_holds_no_secret() -> None:
    """No build argument or variable is a credential: the container gets those when it starts."""
    names = [re.split(r"[= ]", word)[0] for line in instructions("ARG") + instructions("ENV") for word in line.split()]
    assert not [name for name in names if re.search(r"TOKEN|SECRET|PASSWORD|KEY", name)]


def test_its_command_is_one_of_the_command_line() -> None:
    """ENTRYPOINT and CMD are in exec form, and `streaming` accepts the arguments."""
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [["streaming"]]
    [command] = [json.loads(line) for line in instructions("CMD")]
    check_command(command)


def test_its_health_check_uses_the_port_it_serves() -> None:
    """HEALTHCHECK requests /healthz at the port of the command and of EXPOSE, in exec form."""
    [health] = instructions("HEALTHCHECK")
    probe = json.loads(health.partition(" CMD ")[2])
    [command] = [json.loads(line) for line in instructions("CMD")]
    [port] = instructions("EXPOSE")
    assert command[command.index("--metrics-port") + 1] == port
    assert f"http://127.0.0.1:{port}/healthz" in probe[-1]
    compile(probe[-1], "HEALTHCHECK", "exec")
