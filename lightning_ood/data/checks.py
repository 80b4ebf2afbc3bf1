"""What must hold between the sets of a run; each message names the key to change."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_ood.data.labels import LARGEST
from lightning_ood.data.sets import ImageSet
from lightning_ood.errors import InputError

RESERVED = ("mean",)  # the rows of metrics.csv that average a group


def check_names(id_name: str, ood: Iterable[str], csid: Iterable[str] = ()) -> None:
    """Checks that the names of the sets are unique and usable as keys of the tables.

    Args:
        id_name: name of the in-distribution set.
        ood: the others, each as ``<group>/<name>``.
        csid: names of the covariate-shifted ID sets.

    Raises:
        InputError: if a key is not of that form, or a set's name is used twice or reserved.
    """
    seen = {id_name: "the in-distribution set"}
    _check_word(id_name, "data.id.name")
    for key in ood:
        where = f"data.ood.{key}"
        group, slash, name = key.partition("/")
        if not slash:
            raise InputError(f"{where}: a set is named `<group>/<name>`, as in `near/{key}`")
        _check_word(group, where)
        _check_word(name, where)
        if group in ("id", "csid"):
            raise InputError(f"{where}: `{group}` is the group of in-distribution sets; choose another group")
        _check_new(name, where, seen)
    for name in csid:
        where = f"data.csid.{name}"
        _check_word(name, where)
        _check_new(name, where, seen)


def check_training_classes(images: ImageSet) -> None:
    """Checks that every class has a training image.

    Raises:
        InputError: if a class has none, if labels lie outside the classes, or if only some images have a label.
    """
    labels = images.labels
    if labels is None:
        return
    unlabelled = int((labels < 0).sum()) - len(images.unreadable)
    if unlabelled:
        raise InputError(f"data.id.train: {unlabelled} of {len(labels)} images of {images.name} have no label")
    _check_range(images, len(images.classes) if images.classes else LARGEST + 1, "data.id.train")
    counts = torch.bincount(labels[labels >= 0])
    names = images.classes or [str(label) for label in range(len(counts))]
    empty = [name for label, name in enumerate(names) if label >= len(counts) or counts[label] == 0]
    if empty:
        some = ", ".join(empty[:5]) + (f", … ({len(empty)} in all)" if len(empty) > 5 else "")
        advice = "add some or renumber" if images.whole is images else f"write data.limit: {len(names)} or more"
        raise InputError(f"data.id.train: no training image in {images.name} for class {some}; {advice}")


def check_trainable(images: ImageSet, key: str) -> None:
    """Checks that a network can be trained or validated on a set.

    Raises:
        InputError: if an image has no label.
    """
    unlabelled = len(images) if images.labels is None else int((images.labels < 0).sum()) - len(images.unreadable)
    if unlabelled:
        raise InputError(
            f"{key}: {unlabelled} of {len(images)} images of {images.name} have no label, and training needs them; "
            "give class labels, or write model.finetune: none"
        )


def check_same_classes(train: list[str] | None, images: ImageSet, key: str) -> None:
    """Checks that a label means the same class in every ID set; class folders that lack some are numbered by name.

    Args:
        train: names of the classes of the training images, or None where unknown.
        images: the other ID set.
        key: its key in the config.

    Raises:
        InputError: if the names differ, or a label lies outside them.
    """
    if train is None:
        return
    images.number_by(train)
    _check_range(images, len(train), key)
    if images.classes is None or images.classes == train:
        return
    missing, extra = sorted(set(train) - set(images.classes)), sorted(set(images.classes) - set(train))
    detail = f"missing: {', '.join(missing) or 'none'}; not in training: {', '.join(extra) or 'none'}"
    if not missing and not extra:
        detail = "the same names in another order"
    raise InputError(f"{key}: the classes of {images.name} are not those of the training images ({detail})")


def check_logits(logits: int, classes: list[str] | None, labels: Tensor | None, name: str = "the ID set") -> None:
    """Whether a network can have learned the ID classes.

    Args:
        logits: how many the network gives.
        classes: names of the classes, or None where unknown.
        labels: of ID images, or None where unknown.
        name: of the set, for the message.

    Raises:
        InputError: if there are other classes than logits, or a label has none.
    """
    if classes is not None and len(classes) != logits:
        what = f"{len(classes)} classes ({', '.join(classes[:10])}{', …' if len(classes) > 10 else ''})"
    elif labels is not None and int(labels.max()) >= logits:
        what = f"the label {int(labels.max())}, counted from 0"
    else:
        return
    hint = "give the network these classes were learned by, or for one that is trained here model.options.num_classes"
    raise InputError(f"the network has {logits} logits and {name} {what}: {hint}")


def _check_range(images: ImageSet, classes: int, key: str) -> None:
    if images.labels is not None and int(images.labels.max()) >= classes:
        raise InputError(
            f"{key}: {images.name} has the label {int(images.labels.max())}, but there are at most {classes} classes, "
            "counted from 0"
        )


def _check_new(name: str, key: str, seen: dict[str, str]) -> None:
    if name in seen:
        raise InputError(f"{key}: `{name}` is the name of {seen[name]} already; each set needs its own")
    seen[name] = key


def _check_word(name: str, key: str) -> None:
    if not name or "/" in name:
        raise InputError(f"{key}: a name must not be empty or hold a slash, since it names loaders and columns")
    if not name.isprintable():
        raise InputError(f"{key!a}: a name must hold letters that can be printed, in UTF-8, and is {name!a}")
    if name in RESERVED:
        raise InputError(f"{key}: `{name}` is reserved for the mean of a group in the tables; choose another name")
