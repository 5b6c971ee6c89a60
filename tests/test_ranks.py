"""Rank and world size: arguments before the environment before the process group; disagreement is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streaming.errors import ConfigError
from streaming.ranks import rank_and_world

AGREE = """
import sys
from torch import distributed
from streaming.ranks import check_agreement, rank_and_world
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


def test_half_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK without WORLD_SIZE is named."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        rank_and_world()


def test_ranks_that_do_not_agree_are_named(tmp_path) -> None:
    """Over a real process group both ranks get the same error: which rank differs in what, or who has whose number."""
    file = tmp_path / "group"
    runs = [
        subprocess.Popen([sys.executable, "-c", AGREE, str(rank), str(file)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told = [run.communicate(timeout=120)[0].splitlines() for run in runs]
    assert told[0] == told[1]
    assert "rank 1 has seed=1 where rank 0 has 0" in told[0][0]
    assert "the ranks of the 2 trainers are [0, 0]" in told[0][1]
