"""Whether the sets of a run can be opened and read, and whether their classes are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.make import make
from lightning_ood.commands.check.reading import Contents, read_all
from lightning_ood.data.checks import check_logits, check_same_classes, check_training_classes
from lightning_ood.data.datamodule import OODDataModule, data_root
from lightning_ood.data.item_labels import learn_labels
from lightning_ood.data.sets import ImageSet, open_set
from lightning_ood.data.specs import IDSets, Spec

TRAIN, TEST = "data.id.train", "data.id.test"
NAMED = 5  # examples in a message


def open_sets(found: Findings, data: Mapping[str, Any]) -> dict[str, ImageSet]:
    """Opens what can be opened.

    Args:
        found: takes in what cannot.
        data: the config's ``data``, in plain values.

    Returns:
        key of the config -> set.
    """
    root = data_root(data["root"])
    sets: dict[str, ImageSet] = {}
    for key, spec in _specs(data).items():
        with found.catching("sets", key):
            labelled = not key.startswith(("data.ood.", "data.val_ood."))
            images = open_set(make(Spec, spec), root, lambda image: image, data["bad_images"], labelled)  # type: ignore[arg-type, return-value]
            images.upright = data["exif_orientation"]
            learn_labels(images, data["num_workers"])
            if len(images) < 2:
                found.add("error", "sets", key, f"{images.name} has one image; at least two are needed")
            if images.notice:
                found.add("warning", "sets", key, images.notice)
            sets[key] = images
    with found.catching("sets", "data"):  # names and numbers; opens nothing
        names = {key: dict.fromkeys(value, "") for key, value in data.items() if _named_sets(key, value)}
        OODDataModule(**{**data, **names, "id": IDSets("", "", None, data["id"]["name"])})
    if not data["ood"]:
        advice = "`test` needs one: add it as `--data.ood.<group>/<name> <folder or list>`"
        found.add("error", "sets", "data.ood", f"no out-of-distribution set; {advice}")
    return sets


def _specs(data: Mapping[str, Any]) -> dict[str, Any]:
    """Key of the config -> what it names, in the order in which they are learned from and scored."""
    specs = {f"data.id.{part}": data["id"][part] for part in ("train", "val", "test") if data["id"][part] is not None}
    for group, named in data.items():
        if _named_sets(group, named):
            specs |= {f"data.{group}.{name}": spec for name, spec in named.items()}
    return specs


def _named_sets(key: str, value: Any) -> bool:
    """Whether a key of ``data`` holds name -> set, as ``ood`` does."""
    return key != "id" and isinstance(value, Mapping)


def read_sets(
    found: Findings, sets: Mapping[str, ImageSet], data: Mapping[str, Any], limit: int | None, quiet: bool
) -> dict[str, Contents]:
    """Reads every image, or ``limit`` of each set, and says what the sets hold."""
    contents: dict[str, Contents] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        for key, images in sets.items():
            task = progress.add_task(f"Reading {key}", total=min(len(images), limit or len(images)))

            def tick(count: int, task: Any = task) -> None:
                progress.advance(task, count)

            with found.catching("sets", key):
                contents[key] = read_all(images, limit, data["num_workers"], tick)
                _say(found, key, images, contents[key], skips=data["bad_images"] == "skip")
    return contents


def _say(found: Findings, key: str, images: ImageSet, read: Contents, skips: bool) -> None:
    bad = {images.paths[i] or f"{images.name}[{i}]": reason for i, reason in read.unreadable.items()}
    looked_at = len(read.digests) + len(bad)
    found.sets[key] = {
        "name": images.name,
        "images": len(images),
        "read": looked_at,
        "sizes": {f"{width}x{height}": count for (width, height), count in read.sizes.most_common()},
        "modes": dict(read.modes),
        "classes": len(images.classes) if images.classes else None,
        "unreadable": bad,
    }
    parts = [f"{images.name}: {len(images)} images"]
    parts += [f"{len(images.classes)} classes"] if images.classes else []
    parts += [f"{looked_at} of them read"] if looked_at < len(images) else []
    found.add("ok", "sets", key, ", ".join([*parts, _sizes(read), _modes(read)]).rstrip(", "))
    if read.dark:
        position, why = next(iter(read.dark.items()))
        where = images.paths[position]
        found.add("warning", "sets", key, f"{len(read.dark)} of {looked_at} images may be too dark: {where}: {why}")
    if bad:
        reasons = "; ".join(list(bad.values())[:NAMED]) + ("; …" if len(bad) > NAMED else "")
        advice = "left out, as data.bad_images says" if skips else "repair or remove, or `--data.bad_images skip`"
        level = "warning" if skips and read.digests else "error"
        found.add(level, "sets", key, f"{len(bad)} of {looked_at} images cannot be read ({advice}): {reasons}")  # type: ignore[arg-type]


def _sizes(read: Contents) -> str:
    if len(read.sizes) <= 1:
        return "".join(f"{width}x{height}" for width, height in read.sizes)
    (low, high), (width, height) = ((pick(s[i] for s in read.sizes) for pick in (min, max)) for i in (0, 1))
    return f"{len(read.sizes)} sizes, width {low} to {high}, height {width} to {height}"


def _modes(read: Contents) -> str:
    if len(read.modes) == 1:
        return next(iter(read.modes))
    return ", ".join(f"{count} {mode}" for mode, count in read.modes.most_common())


def check_classes(found: Findings, sets: Mapping[str, ImageSet], logits: int | None) -> None:
    """Whether every label means the same class in every ID set, and the classifier has as many outputs.

    Args:
        found: takes in what was found.
        sets: key -> set, those that could be opened.
        logits: of the network; None where it could not be built.
    """
    before = found.count("error")
    train = sets.get(TRAIN)
    if train is not None:
        with found.catching("classes", TRAIN):
            check_training_classes(train)
    names = train.classes if train is not None else None
    for key, images in sets.items():
        if key != TRAIN and not key.startswith(("data.ood.", "data.val_ood.")):
            with found.catching("classes", key):
                check_same_classes(names, images, key)
    for key in (TRAIN, TEST, *(key for key in sets if key.startswith("data.csid."))):
        if key in sets and logits is not None:
            errors = found.count("error")
            with found.catching("classes", key):
                check_logits(logits, sets[key].classes, sets[key].labels, sets[key].name)
            if found.count("error") > errors:
                break
    if found.count("error") == before and logits is not None and train is not None:
        named = f"the {len(names)} classes" if names else "labels" if train.labels is not None else "no labels"
        found.add("ok", "classes", "data.id", f"{named} of training and test images, {logits} logits")
