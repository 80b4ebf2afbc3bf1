"""Finds images that a run holds twice: in one set, or in two sets that must not share any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from lightning_ood.commands.check.findings import Finding, Level
from lightning_ood.commands.check.reading import Contents, image_name
from lightning_ood.commands.check.sets import role
from lightning_ood.data.sets import ImageSet

Place = tuple[str, int]  # key of the set, position

_USES = {"train": "learned", "val": "learned", "val_ood": "learned", "test": "id", "csid": "id", "ood": "ood"}


def check_duplicates(sets: Mapping[str, ImageSet], contents: Mapping[str, Contents]) -> Iterator[Finding]:
    """Reports images with equal pixels.

    An error where the number would be wrong: an image that was learned from (ID training and validation, validation
    OOD) is scored, or one image is scored as ID and as OOD. A warning where the image only counts twice: within a set,
    between OOD sets and between sets that are learned from.
    """
    pairs = _pairs(contents)
    for (a, b), places in pairs.items():
        names = dict.fromkeys(image_name(sets[key], i) for key, i in places[0])  # two lists may name one file
        example = " = ".join(names) + (", …" if len(places) > 1 else "")
        if a == b:
            yield Finding("warning", "duplicates", a, f"{len(places)} images are there a second time ({example})")
            continue
        wrong = _USES[role(a)] != _USES[role(b)]
        level: Level = "error" if wrong else "warning"
        advice = "take them out of one set" if wrong else "they count in both"
        yield Finding(level, "duplicates", f"{a}, {b}", f"{len(places)} images are in both ({example}); {advice}")
    if contents and not pairs:
        images = sum(len(entry.digests) for entry in contents.values())
        yield Finding("ok", "duplicates", "data", f"none among {images} images of {len(contents)} sets")


def _pairs(contents: Mapping[str, Contents]) -> dict[tuple[str, str], list[tuple[Place, Place]]]:
    """Returns the places of equal images, by the two sets (or the one set, twice) that hold them."""
    pairs: dict[tuple[str, str], list[tuple[Place, Place]]] = defaultdict(list)
    first: dict[bytes, tuple[Place, ...]] = {}  # pixels -> first place in each set
    for key, entry in contents.items():
        for position, digest in entry.digests.items():
            earlier = first.get(digest, ())
            own = [place for place in earlier if place[0] == key]
            for place in own or earlier:
                pairs[place[0], key].append((place, (key, position)))
            if not own:
                first[digest] = (*earlier, (key, position))
    return pairs
