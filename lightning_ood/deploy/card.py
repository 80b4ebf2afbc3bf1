"""The model card of an exported folder: what it decides, how sure that is, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_ood.deploy.calibration import Calibration
from lightning_ood.deploy.conformal import too_small
from lightning_ood.deploy.intervals import wilson


def card(header: Mapping[str, Any], calibration: Calibration, notes: Mapping[str, Any]) -> str:
    """Returns the model card as Markdown.

    Args:
        header: content of header.json.
        calibration: scores of the calibration images.
        notes: ``table`` (Markdown) and ``doubts`` (detector -> sentences) of the run, where it has them.
    """
    parts = [_summary(header), _decision(header), _by_class(header, calibration), _accuracy(header), _results(notes)]
    return "\n\n".join(part for part in (*parts, _doubts(notes), _contents(header)) if part) + "\n"


def _summary(header: Mapping[str, Any]) -> str:
    names = ", ".join(header["detectors"])
    network = header["network"].get("name") or header["network"]["class_path"]
    preprocess = header["preprocess"]
    height, width = preprocess["size"]
    classes = header["classes"] or []
    some = ", ".join(classes[:10]) + (f", … ({len(classes)} in all)" if len(classes) > 10 else "")
    return (
        f"# Out-of-distribution detector: {names}\n\n"
        f"An image classifier ({network}; {header['source'] or 'weights in this folder'}) with detectors that say "
        f"whether an image is unlike those that it was trained on. Images are resized to {height}x{width}."
        + (f" Classes: {some}." if some else "")
        + "\n\n```python\nfrom lightning_ood import load_detector\n\n"
        'load_detector("FOLDER").predict("image.png")  # label, probability, score, p_value, is_ood\n```'
    )


def _decision(header: Mapping[str, Any]) -> str:
    stated = header["calibration"]
    n, accept = stated["images"], stated["accept"]
    rows = "\n".join(f"| {name} | {entry['threshold']:.6g} |" for name, entry in header["detectors"].items())
    return (
        f"## Decision\n\nCalibrated on {n} in-distribution (ID) images that nothing was fitted on: {stated['origin']}. "
        f"An image is called OOD where its p-value, `(1 + #{{calibration scores <= score}}) / {n + 1}`, is at most "
        f"{1 - accept:.3g}, which is a score below the threshold.\n\n"
        f"| detector | threshold |\n| --- | ---: |\n{rows}\n\n"
        f"- Of new ID images, at least {accept:.1%} are accepted on average over calibration sets. This holds for any "
        "network and detector if they and the calibration images are exchangeable (one source, no drift).\n"
        f"- With {stated['confidence']:.0%} confidence over the draw of the {n} calibration images, this threshold "
        f"accepts at least {stated['accept_with_confidence']:.1%} of ID images.\n"
        "- Nothing is guaranteed about OOD images: how many are found depends on how they differ."
    )


def _by_class(header: Mapping[str, Any], calibration: Calibration) -> str:
    count = len(header["classes"] or []) or int(calibration.predictions.max()) + 1
    small = too_small(calibration.predictions, header["calibration"]["accept"], count)
    if not small:
        return "Every class has enough calibration images for decisions within the class (`by_class=True`)."
    names = header["classes"] or [str(k) for k in range(count)]
    some = ", ".join(f"{names[label]} ({size})" for label, size in list(small.items())[:10])
    more = f" and {len(small) - 10} more" if len(small) > 10 else ""
    return (
        f"Within their class (`by_class=True`) images of these predicted classes are never called OOD, since the "
        f"classes have too few calibration images: {some}{more}."
    )


def _accuracy(header: Mapping[str, Any]) -> str:
    correct, labelled = header["calibration"]["correct"], header["calibration"]["labelled"]
    if not labelled:
        return ""
    low, high = wilson(correct, labelled)
    return (
        f"## Accuracy\n\n{correct / labelled:.1%} of {labelled} calibration images with a label are classified "
        f"correctly (95 % interval {low:.1%} to {high:.1%})."
    )


def _results(notes: Mapping[str, Any]) -> str:
    if not notes.get("table"):
        return "## Results\n\nThe run was not tested: how well these detectors find OOD images is unknown."
    return f"## Results\n\nOf the run's test, in percent, with 95 % intervals.\n\n{notes['table']}"


def _doubts(notes: Mapping[str, Any]) -> str:
    said = [f"- {name}: {doubt}" for name, doubts in (notes.get("doubts") or {}).items() for doubt in doubts]
    return "## Doubts\n\n" + "\n".join(said) if said else ""


def _contents(header: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    return (
        f"## Contents\n\nExported {header['created']} with {versions}. `header.json` describes network, preprocessing, "
        "detectors and calibration, and holds the SHA-256 of every file. The tensors are safetensors files; no file "
        "holds code."
    )
