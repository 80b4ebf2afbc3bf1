"""Images that are in a run twice: in one set, or in two sets that must not share any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from lightning_ood.commands.check.findings import Findings, Level
from lightning_ood.commands.check.reading import Contents
from lightning_ood.data.sets import ImageSet

Pair = tuple[str, str]
Place = tuple[str, int]  # key of the set, position


def check_duplicates(found: Findings, sets: Mapping[str, ImageSet], contents: Mapping[str, Contents]) -> None:
    """Reports images with equal pixels.

    An error where the number would be wrong: an image that was learned from (ID training and validation, validation
    OOD) is scored, or one image is scored as ID and as OOD. A warning within a set, between OOD sets and between sets
    that are learned from: its image counts twice.
    """
    for (a, b), places in _pairs(contents).items():
        names = dict.fromkeys(_name(sets, place) for place in places[0])  # two lists may name one file
        more = " = ".join(names) + (", …" if len(places) > 1 else "")
        if a == b:
            found.add("warning", "duplicates", a, f"{len(places)} images are there a second time ({more})")
            continue
        level = _level(a, b)
        advice = "take them out of one set" if level == "error" else "they count in both"
        found.add(level, "duplicates", f"{a}, {b}", f"{len(places)} images are in both ({more}); {advice}")
    if len(contents) and not any(finding.topic == "duplicates" for finding in found.listed):
        images = sum(len(entry.digests) for entry in contents.values())
        found.add("ok", "duplicates", "data", f"none among {images} images of {len(contents)} sets")


def _pairs(contents: Mapping[str, Contents]) -> dict[Pair, list[tuple[Place, Place]]]:
    """The images that occur more than once, by the two sets (or the one) that hold them."""
    first: dict[bytes, Place] = {}
    again: dict[bytes, list[Place]] = {}
    for key, entry in contents.items():
        for position, digest in entry.digests.items():
            held = first.setdefault(digest, (key, position))
            if held != (key, position):
                again.setdefault(digest, [held]).append((key, position))
    pairs: dict[Pair, list[tuple[Place, Place]]] = defaultdict(list)
    for places in again.values():
        seen: dict[str, Place] = {}
        for place in places:
            key = place[0]
            if key in seen:
                pairs[key, key].append((seen[key], place))
                continue
            for other, held in seen.items():
                pairs[other, key].append((held, place))
            seen[key] = place
    return pairs


def _level(a: str, b: str) -> Level:
    roles = {_role(a), _role(b)}
    return "error" if ("learned" in roles and len(roles) > 1) or roles == {"id", "ood"} else "warning"


def _role(key: str) -> str:
    """Returns the use of a set: ``learned`` from, or scored as ``id`` or ``ood``."""
    if key in ("data.id.train", "data.id.val") or key.startswith("data.val_ood."):
        return "learned"
    return "ood" if key.startswith("data.ood.") else "id"


def _name(sets: Mapping[str, ImageSet], place: Place) -> str:
    key, position = place
    path = sets[key].paths[position]
    return path if path is not None else f"{sets[key].name}[{position}]"
