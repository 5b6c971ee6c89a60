"""Name the sample of an object: its path below the part's root, without suffixes, after renaming.

`latents/a/latent_0001.pt` and `conditions/a/condition_0001.pt` both belong to sample `a/0001`: if samples have several
parts, the singular of a part's name and an underscore are cut from the beginning of a file's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PRECOMPUTED", "NamingRules", "relative_folder"]

PRECOMPUTED = ".precomputed/"
"""The one hidden folder that is listed: trainers put there what they compute from the media next to it."""

BUILT_IN = ("latent", "condition")


class NamingRules:
    """Rules that turn a path into a sample's name.

    Args:
        part_names: names of the parts in `data_mapping`.
        rename: texts in a name and their replacements, applied in this order.
    """

    def __init__(self, part_names: Iterable[str], rename: Mapping[str, str]) -> None:
        names = list(part_names)
        words = {*BUILT_IN, *names, *map(_singular, names)} if len(names) > 1 else set()
        # The longest first, so that `latents_` wins over `latent`.
        self._prefixes = tuple(sorted((f"{word}_" for word in words), key=len, reverse=True))
        self._rename = tuple(rename.items())

    def name(self, folder: str, stem: str) -> str:
        """Return the sample's name, given the folder below the part's root (empty, or ending in `/`) and the stem."""
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


def relative_folder(prefix: str, folder: str) -> str | None:
    """Return a folder (empty, or ending in `/`) relative to a root prefix; None if it is not below it."""
    if not folder.startswith(prefix):
        return None
    rest = folder[len(prefix) :]
    return rest if prefix else rest.removeprefix(PRECOMPUTED)


def _singular(name: str) -> str:
    word = name.rpartition("/")[2]
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
