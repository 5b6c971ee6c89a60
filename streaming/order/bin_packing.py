"""Put items into bins of one size: best-fit and first-fit, in near linear time.

Best-fit keeps bins by the room they have left, which takes few values when the items come from the largest down.
First-fit keeps the most room of any bin below each node of a binary tree; both methods leave at most one bin that is
not half full, which bounds the tree.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

__all__ = ["best_fit", "first_fit"]


def best_fit(lengths: Sequence[int], size: int) -> list[int]:
    """The bin of each item: of those with room for it the one with the least room, else a new one.

    Args:
        lengths: 1 to `size` each.
        size: of a bin.
    """
    shortest = min(lengths, default=0)
    rooms: list[int] = []  # the different rooms left, rising
    by_room: dict[int, list[int]] = {}
    found: list[int] = []
    bins = 0
    for length in lengths:
        at = bisect_left(rooms, length)
        if at == len(rooms):
            chosen, room = bins, size
            bins += 1
        else:
            room = rooms[at]
            alike = by_room[room]
            chosen = alike.pop()
            if not alike:
                del rooms[at], by_room[room]
        found.append(chosen)
        room -= length
        if room < shortest:
            continue
        if room in by_room:
            by_room[room].append(chosen)
        else:
            by_room[room] = [chosen]
            insort(rooms, room)
    return found


def first_fit(lengths: Sequence[int], size: int) -> list[int]:
    """The bin of each item: the first with room for it.

    Args:
        lengths: 1 to `size` each.
        size: of a bin.
    """
    most = min(len(lengths), 2 * sum(lengths) // size + 1)
    leaves = 1 << max(most - 1, 0).bit_length()
    room = [size] * (2 * leaves)  # of node k the most in the leaves below it; nodes 2k and 2k + 1 are its children
    found: list[int] = []
    for length in lengths:
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < length:
                node += 1
        found.append(node - leaves)
        room[node] -= length
        while node > 1:
            left = room[node & -2]
            right = room[node | 1]
            node >>= 1
            larger = left if left > right else right
            if room[node] == larger:
                break
            room[node] = larger
    return found
