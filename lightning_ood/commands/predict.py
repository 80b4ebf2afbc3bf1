"""``python train.py predict``: decides about images with an exported detector."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_ood.commands.options import OptionParser
from lightning_ood.errors import InputError

if TYPE_CHECKING:
    from lightning_ood.deploy.detector import ExportedDetector
    from lightning_ood.deploy.prediction import Prediction


def add_source(parser: ArgumentParser) -> None:
    """Adds the arguments that ``predict`` and ``monitor`` share."""
    parser.add_argument("--detector", type=Path, required=True, metavar="DIR", help="the exported folder")
    parser.add_argument("--use", metavar="NAME", help="the detector that decides; the folder's first by default")
    parser.add_argument("--accept", type=float, help="share of ID images to accept; that of the export by default")
    parser.add_argument("--batch_size", type=int, default=64, help="images per forward (default: 64)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the first GPU where there is one by default")
    parser.add_argument("--trust_code", action="store_true", help="import classes of other packages that DIR names")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, patterns; - for a list on stdin")


def main(args: list[str]) -> None:
    """Decides about images; the exit code is 1 if an image could not be read."""
    from lightning_ood.deploy.writers import FORMATS

    parser = OptionParser(prog="train.py predict", description=main.__doc__)
    add_source(parser)
    parser.add_argument("--threshold", type=float, help="a score below which an image is OOD, in place of --accept")
    parser.add_argument("--fdr", type=float, help="share of false alarms among the alarms, over all images together")
    parser.add_argument("--joint", nargs="+", default=[], metavar="NAME", help="detectors that decide together")
    parser.add_argument("--by_class", action="store_true", help="p-values within the predicted class")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the images (default: 1)")
    parser.add_argument("--format", choices=FORMATS, help="by default that of the file's ending, else table or csv")
    parser.add_argument("--output", type=Path, help="a file; by default the standard output")
    options = parser.parse_args(args)
    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: write at least 1")
    images = read_images(options)
    detector = open_detector(options)
    unread = run(options, detector, images)
    if unread:
        print(f"{unread} of {len(images)} images could not be read", file=sys.stderr)
        raise SystemExit(1)


def read_images(options: Namespace) -> list[str]:
    """Expands the images that the arguments name, before anything is loaded."""
    from lightning_ood.deploy.inputs import expand

    if options.batch_size < 1:
        raise InputError(f"--batch_size {options.batch_size}: write at least 1")
    return expand(options.images, sys.stdin if "-" in options.images else ())


def open_detector(options: Namespace) -> ExportedDetector:
    """Loads the exported folder that the arguments name."""
    from lightning_ood.deploy.load import load_detector

    return load_detector(options.detector, options.device, options.trust_code)


def run(options: Namespace, detector: ExportedDetector, images: list[str]) -> int:
    """Predicts and writes; returns how many images could not be read."""
    from lightning_ood.deploy.writers import columns_of, format_of, write
    from lightning_ood.ops.console import progress

    form = format_of(options.output, options.format, sys.stdout.isatty())
    unread: list[str] = []
    if options.by_class and (small := detector.too_small(options.accept)):
        names = ", ".join(f"{name} ({count})" for name, count in small.items())
        print(f"never OOD within the class, for want of calibration images: {names}", file=sys.stderr)
    with progress("Predicting", len(images), not options.quiet and sys.stderr.isatty()) as step:
        rows = watched(predictions(options, detector, images), step, unread)
        write(rows, options.output, form, sys.stdout, columns_of(detector.detectors))
    return len(unread)


def predictions(options: Namespace, detector: ExportedDetector, images: list[str]) -> Iterator[Prediction]:
    """Yields the predictions; with ``--fdr`` after all images."""
    from lightning_ood.deploy.prediction import discover

    rule = detector.rule(options.use, options.accept, options.threshold, options.by_class, options.fdr, options.joint)
    if options.processes > 1:
        from lightning_ood.deploy import parallel

        where = (options.batch_size, options.processes, options.device, options.trust_code)
        found = parallel.stream(options.detector, images, rule, *where)
    else:
        found = detector.stream(images, rule, options.batch_size, "skip")
    return found if options.fdr is None else iter(discover(list(found), options.fdr))


def watched(rows: Iterator[Prediction], step: Callable[[], None], unread: list[str]) -> Iterator[Prediction]:
    """Passes predictions on, moves the progress bar, and reports images that could not be read."""
    for row in rows:
        if row.error:
            unread.append(row.image)
            print(f"{row.image}: {row.error}" if row.image not in row.error else row.error, file=sys.stderr)
        step()
        yield row
