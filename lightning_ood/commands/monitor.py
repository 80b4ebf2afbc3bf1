"""``python train.py monitor``: watches a stream of images with an exported detector."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_ood.commands.options import OptionParser
from lightning_ood.commands.predict import add_source, open_detector, read_images


def main(args: list[str]) -> None:
    """Watches a stream of images, in the order given; the exit code is 1 if the alarm is raised."""
    parser = OptionParser(prog="train.py monitor", description=main.__doc__)
    add_source(parser)
    parser.add_argument("--level", type=float, default=0.05, help="probability of a false alarm over the whole stream")
    parser.add_argument("--seed", type=int, default=0, help="of the random order of equal scores")
    parser.add_argument("--output", type=Path, help="a folder for summary, curve, page and state")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --output")
    options = parser.parse_args(args)
    images = read_images(options)
    from lightning_ood.deploy.monitor import Monitor
    from lightning_ood.errors import InputError
    from lightning_ood.ops.console import progress

    if options.resume and options.output is None:
        raise InputError("--resume goes on from a folder: give --output DIR")
    detector = open_detector(options)
    monitor = Monitor(detector, options.use, options.accept, options.level, options.seed)
    if options.resume:
        monitor.resume(options.output)
    unread = 0
    with progress("Watching", len(images), not options.quiet and sys.stderr.isatty()) as step:
        for start in range(0, len(images), options.batch_size):
            for one in monitor.update(images[start : start + options.batch_size], options.batch_size):
                step()
                if one.error:
                    unread += 1
                    print(f"{one.image}: {one.error}" if one.image not in one.error else one.error, file=sys.stderr)
    print(said(monitor))
    if unread:
        print(f"{unread} of {len(images)} images could not be read and do not count", file=sys.stderr)
    if options.output is not None:
        print(f"Summary, curve and page are in {monitor.write(options.output)}")
    raise SystemExit(1 if monitor.alarm else 0)


def said(monitor: object) -> str:
    """Returns what the stream shows, in two lines."""
    summary = monitor.summary()  # type: ignore[attr-defined]
    share = "" if summary["share"] is None else f": {summary['share']:.1%}"
    alarm = "ALARM" if summary["alarm"] else "no alarm"
    at = f" at image {summary['alarm_at']}" if summary["alarm_at"] else ""
    return (
        f"{summary['images']} images, {summary['ood']} called OOD{share} (95 % interval {summary['low']:.1%} to "
        f"{summary['high']:.1%}; of ID images {summary['expected']:.1%})\n{alarm}{at}: largest capital "
        f"10^{summary['log10_peak']:.1f}, alarm from 10^{summary['log10_limit']:.1f}; a false alarm has a probability "
        f"of at most {summary['level']:g} over the whole stream"
    )
