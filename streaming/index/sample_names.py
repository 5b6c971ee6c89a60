"""The name of the sample that an object belongs to: its path below the part's root, without suffixes, after renaming.

`latents/a/latent_0001.pt` and `conditions/a/condition_0001.pt` are both of sample `a/0001`: where a sample has several
parts, the singular of a part's name and an underscore before a file's name are not part of the sample's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PRECOMPUTED", "NamingRules", "below"]

PRECOMPUTED = ".precomputed/"
"""The one hidden folder that is looked into: where trainers keep what they computed from the media beside it."""

BUILT_IN = ("latent", "condition")


class NamingRules:
    """Rules from a place to a sample's name.

    Args:
        part_names: what `data_mapping` calls the parts.
        rename: texts in a name and what stands for them, applied in this order.
    """

    def __init__(self, part_names: Iterable[str], rename: Mapping[str, str]) -> None:
        names = list(part_names)
        words = {*BUILT_IN, *names, *map(_singular, names)} if len(names) > 1 else set()
        # The longest first, so that `latents_` is not cut after `latent`.
        self._prefixes = tuple(sorted((f"{word}_" for word in words), key=len, reverse=True))
        self._rename = tuple(rename.items())

    def name(self, folder: str, stem: str) -> str:
        """The sample's name, from the folder below the part's root (empty, or ending in `/`) and the file's stem."""
        if self._rename:
            text = folder + stem
            for old, new in self._rename:
                text = text.replace(old, new)
            folder, slash, stem = text.rpartition("/")
            folder += slash
        if self._prefixes and stem.startswith(self._prefixes):
            prefix = next(prefix for prefix in self._prefixes if stem.startswith(prefix))
            stem = stem[len(prefix) :] or stem
        return folder + stem


def below(prefix: str, folder: str) -> str | None:
    """What remains of a folder (empty, or ending in `/`) below a root prefix; None if it lies elsewhere."""
    if not folder.startswith(prefix):
        return None
    rest = folder[len(prefix) :]
    return rest if prefix else rest.removeprefix(PRECOMPUTED)


def _singular(name: str) -> str:
    word = name.rpartition("/")[2]
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
