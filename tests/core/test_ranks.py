"""Rank and world size: arguments before the environment before the process group; disagreement is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streaming.core.ranks import rank_and_world
from streaming.errors import ConfigError

AGREE = """
import sys
from torch import distributed
from streaming.core.ranks import check_agreement, rank_and_world
rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
assert rank_and_world() == (rank, 2)
check_agreement(rank, 2, {"seed": 1})
for own, settings in ((rank, {"seed": rank}), (0, {"seed": 1})):
    try:
        check_agreement(own, 2, settings)
    except ValueError as error:
        print(error)
distributed.destroy_process_group()
"""

LATER = """
import os, sys
from torch import distributed
from streaming.core.ranks import rank_and_world
from streaming.loader.sampler import StreamingSampler
early, given = StreamingSampler(10, shuffle=False), StreamingSampler(10, shuffle=False, rank=0, world_size=1)
rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
os.environ["WORLD_SIZE"] = "2"
assert rank_and_world() == (rank, 2)
assert list(given) == list(range(10))
assert list(StreamingSampler(10, shuffle=False)) == list(range(rank, 10, 2))
try:
    list(early)
except ValueError as error:
    print(error)
distributed.destroy_process_group()
"""


PEEK = """
import sys
import torch
from torch import distributed
from streaming.loader.data_loader import StreamingDataLoader
rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
loader = StreamingDataLoader(torch.arange(40), 4, shuffle=True)
next(iter(loader))  # both look at a first batch
both = loader.epoch, torch.cat(list(loader)).tolist()
next(iter(loader)) if rank == 0 else list(loader)
try:
    list(loader)
except ValueError as error:
    print(error)
loader.set_epoch(7)
print(both[0], len(both[1]), len(list(loader)), loader.epoch)
distributed.destroy_process_group()
"""


def test_arguments_then_environment_then_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said outright wins; without anything there is one trainer."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rank_and_world() == (2, 4)
    assert rank_and_world(1, 3) == (1, 3)


@pytest.mark.parametrize(("rank", "world"), [(None, 2), (1, None), (2, 2), (-1, 2), (0, 0), ("x", 2)])
def test_what_cannot_be(rank: object, world: object) -> None:
    """Half of the two, a rank beyond the others, and words are refused."""
    with pytest.raises(ConfigError, match="rank"):
        rank_and_world(rank, world)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "other"), [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_half_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, other: str) -> None:
    """One of the variables without the other is named if there is no process group."""
    monkeypatch.setenv(name, "1")
    monkeypatch.delenv(other, raising=False)
    with pytest.raises(ConfigError, match=f"{name} is set and {other} is not"):
        rank_and_world()


def run_ranks(script: str, file: Path) -> list[list[str]]:
    """Return what two processes of a group print."""
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(rank), str(file)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [run.communicate(timeout=120)[0].splitlines() for run in runs]


def test_a_loader_that_was_made_before_the_process_group(tmp_path: Path) -> None:
    """Alone it refuses to give every rank everything; with an explicit rank it does; half the environment, as
    Lightning sets it, leaves it to the group."""
    for rank, printed in enumerate(run_ranks(LATER, tmp_path / "group")):
        assert f"made as rank 0 of 1 and the process group says {rank} of 2" in "".join(printed)


def test_a_rank_that_alone_left_a_pass_is_named(tmp_path: Path) -> None:
    """It would train on another epoch than the other; both get an error, and continue after `set_epoch`."""
    printed = run_ranks(PEEK, tmp_path / "group")
    assert printed[0] == printed[1] == [printed[0][0], "0 20 5 8"]
    assert "rank 1 has the last pass left at position=None where rank 0 has 8" in printed[0][0]


def test_ranks_that_do_not_agree_are_named(tmp_path) -> None:
    """Over a real process group both ranks get the same error: which rank differs in what, or who has whose number."""
    file = tmp_path / "group"
    printed = run_ranks(AGREE, file)
    assert printed[0] == printed[1]
    assert "rank 1 has seed=1 where rank 0 has 0" in printed[0][0]
    assert "the ranks of the 2 trainers are [0, 0]" in printed[0][1]
