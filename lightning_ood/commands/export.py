"""``python train.py export``: writes a fitted detector to a folder, calibrated on held-out ID images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.lightning_cli import CLI
from lightning_ood.data.calibration import calibration_batches, calibration_images
from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.words import class_words
from lightning_ood.deploy import banks, folder
from lightning_ood.deploy.export import export
from lightning_ood.engine import run
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.networks.attach import WithHead
from lightning_ood.networks.huggingface import HFNetwork
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import LIMIT, limit_line, read_metrics
from lightning_ood.suite import DetectorSuite


class ExportCLI(CLI):
    """Parses the arguments of ``export``: those of ``test``, and what to write where."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the one subcommand; the trainer's method takes no arguments."""
        return {"export": set()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own options."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--detector", type=str, nargs="+", default=[], help="detectors of the config to export; the first decides"
        )
        parser.add_argument("--output", type=str, required=True, help="the folder to write")
        parser.add_argument("--accept", type=float, default=0.95, help="share of ID images to accept")
        parser.add_argument("--calibration", type=str | None, default=None, help="ID images to calibrate on")
        parser.add_argument(
            "--calibration_share", type=float | None, default=None, help="share of the ID test images to calibrate on"
        )
        parser.add_argument(
            "--bank", type=int | None, default=None, help="rows of a bank to keep; what that costs in AUROC is printed"
        )
        parser.add_argument("--format", type=Literal["folder", "onnx", "torch"], default="folder", help=FORMATS)

    def before_instantiate_classes(self) -> None:
        """Leaves out the logger: an export logs nothing."""
        super().before_instantiate_classes()
        self.options.trainer.logger = False

    def export(self, model: OODModule, datamodule: OODDataModule, **_: Any) -> None:
        """Loads the fit of the run, calibrates it and writes the folder."""
        options, scoring = self.options, self._scoring
        choose(scoring, options.detector)
        scoring.leave_out(model)
        output = Path(options.output)
        _load(self.folder.last, model, datamodule, scoring, self.trainer)
        suite = scoring.suite
        if options.bank is not None:
            suite = smaller_banks(model, datamodule, suite, options.bank)
        spec = options.calibration
        chosen = calibration_images(datamodule, spec, options.calibration_share, datamodule.seed)
        classes = datamodule.classes or chosen.images.classes or []
        written = export(
            output,
            model.backbone,
            describe_network(model, options.model.as_dict()),
            model.preprocess,
            suite,
            calibration_batches(datamodule, chosen),
            origin=chosen.origin,
            accept=options.accept,
            classes=class_words(classes, (datamodule.id.train, datamodule.id.test), datamodule.root),
            reading={"head": options.model.head, "allow_random": options.model.reading.allow_random},
            exif_orientation=datamodule.exif_orientation,
            notes={**results(self.folder.path, list(scoring.suite.detectors)), "doubts": scoring.suite.doubts}
            | {
                "source": str(model.source)
                if model.finetune == "none"
                else f"{model.source.network}, trained in this run"
            },
            graph=None if options.format == "folder" else options.format,
            overwrite=options.overwrite,
        )
        _say(written)


FORMATS = "folder: for load_detector; onnx, torch: also a graph for other runtimes, image in and decision out"


def smaller_banks(model: OODModule, data: OODDataModule, suite: DetectorSuite, rows: int) -> DetectorSuite:
    """Returns the suite with smaller banks, and prints the AUROC of the test sets before and after."""
    small = banks.shrink(suite, rows)
    names = banks.changed(suite, small)
    if not names:
        rank_zero_print(f"--bank {rows}: no detector holds a larger bank; nothing is made smaller")
        return suite
    data.setup("test")
    loaders = data.test_dataloader()
    sets = {entry.name: loaders[key] for key, entry in data.sets.items() if entry.role != "csid"}
    model.backbone.configure(suite.reads("test"))
    found = banks.costs(model.backbone, (suite, small), sets)
    lines = [
        [name, ood, f"{100 * before:.2f}", f"{100 * after:.2f}", f"{100 * (after - before):+.2f}"]
        for (name, ood), (before, after) in found.items()
        if name in names
    ]
    heads = ["detector", "OOD set", "AUROC, whole bank", f"{rows} rows", "difference"]
    rank_zero_print(markdown_table(heads, lines, labels=2, pad=True))
    return small


def choose(scoring: ScoringCallback, names: list[str]) -> None:
    """Keeps the detectors that are exported, in the order given; all where none is named.

    Raises:
        InputError: if the config has no such detector.
    """
    detectors = scoring.suite.detectors
    for name in names:
        if name not in detectors:
            raise InputError(f"--detector {name}: the config has no such detector; {write_one_of(name, detectors)}")
    if names:
        scoring.suite.detectors = {name: detectors[name] for name in names}


def _load(path: Path, model: OODModule, data: OODDataModule, scoring: ScoringCallback, trainer: Any) -> None:
    trainer.strategy.connect(model)
    data.trainer = trainer
    if path.is_file():
        run.load(path, model, data, scoring, trainer.precision)
    elif scoring.suite.requiring_fit or model.finetune != "none":
        what = ", ".join(scoring.suite.requiring_fit) or "the network"
        raise InputError(f"{what} must be fitted first, and there is no {path}: run fit with the same --config")
    device = trainer.strategy.root_device
    model.to(device)
    with torch.inference_mode():
        scoring.suite.setup(model.backbone.info())
        scoring.suite.to(device)


def describe_network(model: OODModule, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how to build the network without its weights.

    Args:
        model: the module of the run.
        options: its arguments, in plain values.
    """
    network: Any = model.backbone.network
    if not isinstance(network, WithHead):
        return _describe_named(model, network, options)
    tower, head = _describe_named(model, network.tower, options), network.head
    named = {"tower": tower["name"], "options": tower["options"]} if "name" in tower else {"tower": tower}
    sizes = {"num_classes": head.out_features, "num_features": head.in_features, "cosine": network.cosine}
    return {"class_path": _path(WithHead), "init_args": {**named, **sizes}}


def _describe_named(model: OODModule, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the network that the config names, without a head that was put on it."""
    if options.get("network") is not None:
        described: dict[str, Any] = _described(options["network"])
        return described
    if isinstance(network, HFNetwork):
        arguments = {"config": _described(network.config), "classifier": network.classifier}
        return {"class_path": _path(HFNetwork), "init_args": arguments}
    name, arguments = model.source.network, dict(options.get("options") or {})
    if "hf-hub:" in name or "local-dir:" in name:  # neither is there when the folder is loaded
        name = f"timm:{network.pretrained_cfg['architecture']}"
        arguments = {"num_classes": network.num_classes, **arguments}
    return {"name": name, "options": _described(arguments)}


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _described(value: Any) -> Any:
    """Converts plain values of a config to the form that :func:`lightning_ood.deploy.spec.construct` reads."""
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = {name: _described(item) for name, item in (value.get("init_args") or {}).items()}
        return {"class_path": value["class_path"], "init_args": arguments}
    if isinstance(value, Mapping):
        return {"dict": [[key, _described(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_described(item) for item in value]}
    return [_described(item) for item in value] if isinstance(value, list) else value


def results(run_folder: Path, detectors: list[str]) -> dict[str, str]:
    """Returns the rows of a run's metrics.csv as a Markdown ``table``; nothing where the run was not tested."""
    if not (run_folder / "metrics.csv").is_file():
        return {}
    table = read_metrics(run_folder)
    table = table[table["detector"].isin(detectors) & (table["dataset"] != "mean")]
    rows = [
        [
            *(str(row[key]) for key in ("detector", "dataset", "n_ood")),
            *(f"{row[k]:.1f} [{row[f'{k}_low']:.1f}, {row[f'{k}_high']:.1f}]" for k in ("auroc", "fpr95")),
        ]
        for _, row in table.iterrows()
    ]
    text = markdown_table(["detector", "OOD set", "images", "AUROC", "FPR95"], rows, labels=2)
    limit = limit_line(int(table[LIMIT].max())) if LIMIT in table else ""
    return {"table": f"{text}\n\n{limit}" if limit else text}


def _say(written: Path) -> None:
    header = folder.read_header(written)
    stated, names = header["calibration"], ", ".join(header["detectors"])
    rank_zero_print(
        f"Exported {names} to {written} ({folder.size(written) / 1e6:.1f} MB), calibrated on {stated['origin']}. "
        f"Accepts {stated['accept']:.1%} of ID images on average over calibration sets, and with "
        f"{stated['confidence']:.0%} confidence at least {stated['accept_with_confidence']:.1%}"
    )


def main(args: list[str]) -> None:
    """Writes a fitted detector to a folder that decides about new images."""
    ExportCLI(["export", *args])
