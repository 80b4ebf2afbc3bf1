"""Generates pages of the documentation: ``python -m tools.docs methods --write`` (``--check`` in CI).

``docs/methods.md`` is generated from the docstrings, ``docs/backbones.md`` from the networks. Of ``docs/choose.md`` the
cells of tables are filled, from the results that they quote.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torchmetrics import Metric

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Head, NetworkInfo
from lightning_ood.statistics.sample import state_bytes
from lightning_ood.testing.toy import Toy
from tools.docs_backbones import backbones
from tools.docs_choose import filled
from tools.docs_references import entries

METHODS = Path(__file__).parent.parent / "docs" / "methods.md"
BACKBONES, CHOOSE = METHODS.with_name("backbones.md"), METHODS.with_name("choose.md")
SIZES = ((512, 10), (2048, 1000))  # (D, K): a ResNet-18 on CIFAR-10, a ResNet-50 on ImageNet
_INTRODUCTION = """# Methods

One entry per detector with its default arguments, generated from the docstrings by
`python -m tools.docs methods --write`: do not edit. [Which one to begin with?](choose.md) All papers as BibTeX:
[references.bib](references.bib). A higher score is always more in-distribution.
z is the penultimate feature (D numbers), f the logits (K), W and b the classifier's weight and bias.

All detectors score from one shared forward pass. *Extra forwards* are further passes of a detector, per training image
in the fit and per test image. *State* is the size of its sums during the fit. It does not grow with the number of
images; for a detector that chooses among blocks it is given for one block. A *score of the logits* can be the `base`
of a *shaping*, which changes the feature or the classifier first.
"""


def methods() -> str:
    """Renders ``docs/methods.md``."""
    kinds = list(list_detectors().values())
    sizes = [f"state at D = {width}, K = {classes}" for width, classes in SIZES]
    header = ["detector", "kind", "reads", "fits on", *sizes, "extra forwards (fit, test)"]
    lines = [_row(header), _row(["---"] * len(header))]
    lines += [_row([f"[{kind.__name__}](#{kind.__name__.lower()})", *facts(kind)]) for kind in kinds]
    left_out = "\n" + (Path(__file__).parent / "left_out.md").read_text(encoding="utf-8")
    return "\n".join([_INTRODUCTION, *lines, *(_section(kind) for kind in kinds), left_out])


def facts(kind: type[Detector]) -> list[str]:
    """Returns the table cells of a detector (kind, reads, fit, costs), found by setting it up with its defaults."""
    detector = kind()
    detector.setup(Toy(attention=False).info(Toy().train().labels))
    extra = detector.extra_forwards
    sort = "shaping" if issubclass(kind, Shaping) else "score of the logits" if issubclass(kind, LogitScore) else ""
    state = [_bytes(state_size(kind, width, classes)) for width, classes in SIZES]
    return [sort, _reads(detector), _fits_on(detector), *state, f"{extra['fit']}, {extra['test']}"]


def state_size(kind: type[Detector], width: int, classes: int) -> int:
    """Computes the size in bytes of a detector's sums, without allocating them.

    Args:
        kind: class of the detector, which is built with its default arguments.
        width: D; the network has one block, of D x 7 x 7.
        classes: K.
    """
    with torch.device("meta"):
        head = Head(torch.zeros(classes, width), torch.zeros(classes))
        detector = kind()
        map_ = torch.Size((width, 7, 7))
        detector.setup(NetworkInfo(width, classes, head, {"last": map_, "block": map_}, ("block",)))
    return sum(state_bytes(metric) for metric in detector.modules() if isinstance(metric, Metric))


def _reads(detector: Detector) -> str:
    reads = detector.reads
    gradients = [f"gradient of `{tap}`" for tap in sorted(reads.gradients)]
    taps = ["maps of the blocks"] if len(reads.taps) > 1 else [f"map `{tap}`" for tap in reads.taps]
    named = ["z and classifier"] * reads.head + taps + gradients + ["attention"] * reads.attention
    return ", ".join(named) or ("logits" if isinstance(detector, LogitScore) else "z and logits")


def _fits_on(detector: Detector) -> str:
    if not detector.requires_fit:
        return "nothing"
    toy = Toy()
    batch = toy(toy.train(), detector.reads)
    try:
        detector.update(replace(batch, labels=None))
    except InputError:
        return "training images with labels"
    return "training images"


def _bytes(size: int) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B" if size else "0"


def _section(kind: type[Detector]) -> str:
    module = sys.modules[kind.__module__]
    paper = " ".join((module.__doc__ or "").split())
    lines = [
        f"\n## {kind.__name__}\n",
        f"{_linked(paper)}\n",
        f"`{kind.__module__}.{kind.__name__}`\n",
        *entries(kind.__name__),
        *_body(kind),
    ]
    for other in vars(module).values():
        if inspect.isclass(other) and other.__module__ == module.__name__ and not issubclass(other, Detector):
            lines += [f"\n### {other.__name__}\n", *_body(other)]
    return _markdown("\n".join(lines))


def _body(kind: type) -> list[str]:
    """Renders the docstring of a class: its paragraphs, then its arguments or attributes."""
    text = re.split(r"\nRaises:\n", inspect.cleandoc(kind.__doc__ or ""))[0]
    body, *entries = re.split(r"\n(?:Args|Attributes):\n", text)
    arguments = [argument for entry in entries for argument in _arguments(entry)]
    return [
        _linked(body.rstrip()),
        *(["\nArguments:\n"] if arguments else []),
        *(f"- `{n}`: {what}" for n, what in arguments),
    ]


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    for entry in re.split(r"\n(?=    \w+:)", "\n" + text.rstrip()):
        name, _, what = entry.partition(":")
        if name.strip():
            yield name.strip(), " ".join(what.split())


def _linked(text: str) -> str:
    """Makes bare addresses links, which GitHub does by itself and Sphinx does not."""
    return re.sub(r"(?<![<`(])(https://\S*[\w/])", r"<\1>", text)


def _markdown(text: str) -> str:
    """Converts a docstring to Markdown: roles and double backticks become code."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def render(page: str) -> str:
    """Renders a page: ``methods``, ``backbones`` or ``choose``."""
    if page == "choose":
        return filled(CHOOSE.read_text(encoding="utf-8"), CHOOSE.parent)
    return methods() if page == "methods" else backbones(list_detectors().values())


def main(arguments: list[str] | None = None) -> None:
    """Writes a page or checks that it is current."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("page", choices=["methods", "backbones", "choose"])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the page")
    action.add_argument("--check", action="store_true", help="fail if the page differs from the code")
    parser.add_argument("--path", type=Path, help="path of the page")
    options = parser.parse_args(arguments)
    path = options.path or {"methods": METHODS, "backbones": BACKBONES, "choose": CHOOSE}[options.page]
    text = render(options.page)
    if options.write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{path} is not current: run `python -m tools.docs {options.page} --write`")


if __name__ == "__main__":
    main()
