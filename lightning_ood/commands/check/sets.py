"""Checks whether the sets of a run can be opened and read, and whether their classes agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_ood.commands.check.findings import Finding, Findings
from lightning_ood.commands.check.make import make
from lightning_ood.commands.check.reading import Contents, image_name, read_all
from lightning_ood.data.checks import check_logits, check_same_classes, check_training_classes
from lightning_ood.data.datamodule import OODDataModule, data_root
from lightning_ood.data.item_labels import learn_labels
from lightning_ood.data.limit import limited
from lightning_ood.data.opening import open_set
from lightning_ood.data.sets import ImageSet
from lightning_ood.data.specs import IDSets, Spec
from lightning_ood.report.table import limit_line

TRAIN, TEST = "data.id.train", "data.id.test"
EXAMPLES = 5  # in a message


def role(key: str) -> str:
    """Returns what the set of a config key is used as: train, val, test, csid, ood or val_ood."""
    _, group, name = key.split(".", 2)
    return name if group == "id" else group


def open_sets(found: Findings, data: Mapping[str, Any]) -> dict[str, ImageSet]:
    """Returns every set that can be opened by its key in the config, ID sets first."""
    specs = {f"data.id.{part}": data["id"][part] for part in ("train", "val", "test") if data["id"][part] is not None}
    groups = {
        group: {name: spec for name, spec in named.items() if spec is not None}  # null leaves a set out
        for group, named in data.items()
        if group != "id" and isinstance(named, Mapping)
    }
    for group, named in groups.items():
        specs |= {f"data.{group}.{name}": spec for name, spec in named.items()}
    root = data_root(data["root"])
    sets: dict[str, ImageSet] = {}
    for key, spec in specs.items():
        with found.catching("sets", key):
            labelled = not key.startswith(("data.ood.", "data.val_ood."))
            images = open_set(make(Spec, spec), root, lambda image: image, data["bad_images"], labelled)  # type: ignore[arg-type, return-value]
            images.upright = data["exif_orientation"]
            learn_labels(images, data["num_workers"])
            images = limited(images, data["limit"], data["seed"])
            if len(images) < 2:
                found.add("error", "sets", key, f"{images.name} has one image; at least two are needed")
            if images.notice:
                found.add("warning", "sets", key, images.notice)
            sets[key] = images
    with found.catching("sets", "data"):  # checks names and numbers; opens nothing
        names = {group: dict.fromkeys(named, "") for group, named in groups.items()}
        OODDataModule(**{**data, **names, "id": IDSets("", "", None, data["id"]["name"])})
    if data["limit"] is not None:
        found.add("ok", "sets", "data.limit", limit_line(data["limit"]))
    if not groups.get("ood"):
        advice = "`test` needs one: add it as `--data.ood.<group>/<name> <folder or list>`"
        found.add("error", "sets", "data.ood", f"no out-of-distribution set; {advice}")
    return sets


def read_sets(
    found: Findings, sets: Mapping[str, ImageSet], data: Mapping[str, Any], limit: int | None, quiet: bool
) -> dict[str, Contents]:
    """Reads every image, or ``limit`` of each set, and reports what the sets contain."""
    contents: dict[str, Contents] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        for key, images in sets.items():
            task = progress.add_task(f"Reading {key}", total=min(len(images), limit or len(images)))
            with found.catching("sets", key):
                read = Contents()
                for batch in read_all(images, limit, data["num_workers"]):
                    read.update(batch)
                    progress.advance(task, len(batch))
                contents[key] = read
                found.sets[key] = read.plain(images)
                found.listed += _describe(key, images, read, data["bad_images"] == "skip")
    return contents


def _describe(key: str, images: ImageSet, read: Contents, skips: bool) -> Iterator[Finding]:
    bad = list(read.unreadable.values())
    parts = [
        f"{images.name}: {len(images)} images",
        f"{len(images.classes)} classes" if images.classes else "",
        f"{len(read)} of them read" if len(read) < len(images) else "",
        _sizes(read),
        ", ".join(f"{count} {mode}" if len(read.modes) > 1 else mode for mode, count in read.modes.most_common()),
    ]
    yield Finding("ok", "sets", key, ", ".join(part for part in parts if part))
    if read.dark:
        position, reason = next(iter(read.dark.items()))
        where = image_name(images, position)
        dark = f"{len(read.dark)} of {len(read)} images may be too dark: {where}: {reason}"
        yield Finding("warning", "sets", key, dark)
    if bad:
        reasons = "; ".join(bad[:EXAMPLES]) + ("; …" if len(bad) > EXAMPLES else "")
        advice = "left out, as data.bad_images says" if skips else "repair or remove, or `--data.bad_images skip`"
        message = f"{len(bad)} of {len(read)} images cannot be read ({advice}): {reasons}"
        yield Finding("warning" if skips and read.digests else "error", "sets", key, message)


def _sizes(read: Contents) -> str:
    if len(read.sizes) <= 1:
        return "".join(f"{width}x{height}" for width, height in read.sizes)
    widths, heights = zip(*read.sizes, strict=True)
    ranges = f"width {min(widths)} to {max(widths)}, height {min(heights)} to {max(heights)}"
    return f"{len(read.sizes)} sizes, {ranges}"


def check_classes(found: Findings, sets: Mapping[str, ImageSet], logits: int | None) -> None:
    """Checks that a label means the same class in every ID set, and that the network has a logit for each class.

    ``logits`` is the number of logits; None where the network could not be built.
    """
    train = sets.get(TRAIN)
    names = train.classes if train is not None else None
    for key, images in sets.items():
        with found.catching("classes", key):
            if key == TRAIN:
                check_training_classes(images)
            elif role(key) in ("val", "test", "csid"):
                check_same_classes(names, images, key)
    if logits is None:
        return
    for key in (TRAIN, TEST, *(key for key in sets if role(key) == "csid")):
        with found.catching("classes", key) as failures:
            if key in sets:
                check_logits(logits, sets[key].classes, sets[key].labels, sets[key].name)
        if failures:
            break
    if train is not None and not found.errors("classes"):
        named = f"the {len(names)} classes" if names else "labels" if train.labels is not None else "no labels"
        found.add("ok", "classes", "data.id", f"{named} of training and test images, {logits} logits")
