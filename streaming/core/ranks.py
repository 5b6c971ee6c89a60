"""Rank and world size of this process, and whether the ranks agree."""

from __future__ import annotations

import os
from typing import Any

from streaming.errors import ConfigError

__all__ = ["check_agreement", "check_group", "is_first_of_node", "rank_and_world", "ranks_of_node"]


def rank_and_world(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Return this process' rank and the world size.

    They come from the arguments; else from the environment (`RANK` and `WORLD_SIZE`, which `torchrun` sets); else from
    the default process group; else they are 0 and 1.

    Raises:
        ConfigError: only one of the two is given, they are not numbers, or the rank is not in `range(world_size)`.
    """
    found = _given(rank, world_size) or _from_environment() or _from_group() or _alone()
    if not 0 <= found[0] < found[1]:
        raise ConfigError(f"rank {found[0]} of {found[1]} is not possible: give a rank from 0 to world_size - 1")
    return found


def ranks_of_node() -> int:
    """Return the number of ranks that share this node's memory, from `LOCAL_WORLD_SIZE` of `torchrun`; 1 without it.

    Raises:
        ConfigError: the variable is not an integer of at least 1.
    """
    text = os.environ.get("LOCAL_WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"LOCAL_WORLD_SIZE={text!r} is not a number of ranks on a node: set it to 1 or more, or unset it"
        )
    return int(text)


def is_first_of_node() -> bool:
    """Whether this is the first rank of its node, by `LOCAL_RANK`; true without it."""
    return (os.environ.get("LOCAL_RANK") or "0") == "0"


def check_agreement(rank: int, world_size: int, settings: dict[str, Any]) -> bool:
    """Compare the settings of all ranks, if there is a process group of that size; a collective call.

    Returns:
        Whether all ranks are known to agree; a single rank does.

    Raises:
        ConfigError: the settings differ; raised on every rank, naming the ranks that differ from rank 0 and in what.
    """
    from torch import distributed

    if world_size == 1:
        return True
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    if distributed.get_world_size() != world_size:
        return False
    gathered: list[Any] = [None] * world_size
    distributed.all_gather_object(gathered, {"rank": rank, **settings})
    _compare(sorted(gathered, key=lambda each: int(each["rank"])))
    return True


def _compare(gathered: list[dict[str, Any]]) -> None:
    ranks = [each["rank"] for each in gathered]
    if ranks != list(range(len(gathered))):
        raise ConfigError(f"the ranks of the {len(gathered)} trainers are {ranks}: give each its own")
    first = gathered[0]
    differences = [
        f"rank {other['rank']} has {name}={other.get(name)!r} where rank 0 has {first.get(name)!r}"
        for other in gathered[1:]
        for name in sorted((first.keys() | other.keys()) - {"rank"})
        if other.get(name) != first.get(name)
    ]
    if differences:
        raise ConfigError(f"the trainers do not agree: {'; '.join(differences[:8])}; give all ranks the same settings")


def check_group(rank: int, world_size: int) -> None:
    """Compare a detected rank with the default process group, which may have been made since.

    Raises:
        ConfigError: they differ, so that ranks would read the same samples.
    """
    group = _from_group()
    if group is not None and group != (rank, world_size):
        raise ConfigError(
            f"the loader was made as rank {rank} of {world_size} and the process group says {group[0]} of {group[1]}: "
            "make it after the process group (in Lightning, in train_dataloader()), or give rank and world_size"
        )


def _given(rank: Any, world_size: Any, names: str = "rank and world_size") -> tuple[int, int] | None:
    if rank is None and world_size is None:
        return None
    try:
        return int(rank), int(world_size)
    except (TypeError, ValueError):
        raise ConfigError(f"{names} are {rank!r} and {world_size!r}: give both, as numbers, or neither") from None


def _from_environment() -> tuple[int, int] | None:
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return None
    return _given(rank, world_size, "the variables RANK and WORLD_SIZE")


def _from_group() -> tuple[int, int] | None:
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _alone() -> tuple[int, int]:
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name in os.environ:  # Lightning sets one of the two before it makes the process group
            raise ConfigError(
                f"the variable {name} is set and {other} is not: make the loader after the process group (in "
                "Lightning, in train_dataloader()), or give rank and world_size"
            )
    return 0, 1
