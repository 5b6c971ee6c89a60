"""Put items into bins of equal size: best-fit and first-fit, in nearly linear time.

Best-fit keeps the bins by the room left, which has few different values when items come from the largest down.
First-fit keeps in each node of a binary tree the most room of the bins below it; both methods leave at most one bin
less than half full, which bounds the tree.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

__all__ = ["best_fit", "first_fit"]


def best_fit(lengths: Sequence[int], size: int) -> list[int]:
    """Return the bin of each item: the one with the least room that is sufficient, else a new one.

    Args:
        lengths: from 1 to `size` each.
        size: size of a bin.
    """
    shortest = min(lengths, default=0)
    rooms: list[int] = []  # the different amounts of room left, ascending
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
    """Return the bin of each item: the first with sufficient room.

    Args:
        lengths: from 1 to `size` each.
        size: size of a bin.
    """
    most = min(len(lengths), 2 * sum(lengths) // size + 1)
    leaves = 1 << max(most - 1, 0).bit_length()
    room = [size] * (2 * leaves)  # node k holds the maximum of its leaves; nodes 2k and 2k + 1 are its children
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
