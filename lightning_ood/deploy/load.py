"""Loads an exported folder. Nothing of the training is needed: no data, no Lightning, no connection."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_ood.deploy.private_imports import metric_alone, without_wandb

if TYPE_CHECKING:
    from lightning_ood.deploy.detector import ExportedDetector

LIBRARIES = ("torch", "timm", "torchvision")  # whose versions may change a number


def versions() -> dict[str, str]:
    """Returns the versions of this package and of the libraries that a score depends on."""
    from lightning_ood.ops.version import VERSION

    found = {"lightning_ood": VERSION}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load_detector(folder: str | Path, device: str | None = None, trust_code: bool = False) -> ExportedDetector:
    """Loads a detector that ``python train.py export`` wrote.

    Args:
        folder: the exported folder.
        device: where to run it; the first GPU where there is one, else the CPU.
        trust_code: whether to import and run classes of other packages that the folder names, such as a network of
            your own given by class path.

    Raises:
        InputError: if the folder is none, a file in it is missing or was changed, it needs code that is not trusted,
            or network and detectors here are not those that were exported.
    """
    metric_alone()
    import torch

    from lightning_ood.deploy import folder as files
    from lightning_ood.deploy.detector import ExportedDetector
    from lightning_ood.networks.preprocess import Preprocess

    path = Path(folder)
    header = files.read_header(path)
    _compare(header["versions"], path)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocess = Preprocess(**{key: _tuple(value) for key, value in header["preprocess"].items()})
    backbone = _backbone(header, path, trust_code, preprocess).to(where)
    suite = _suite(header, files.read_fits(path, header), trust_code)
    suite.setup(backbone.info())
    backbone.configure(suite.to(where).reads("test"))
    calibration = files.read_calibration(path, header)
    accept, upright = header["calibration"]["accept"], header["exif_orientation"]
    return ExportedDetector(backbone, suite, preprocess, calibration, accept, header["classes"], where, upright, header)


def _compare(stored: dict[str, str], path: Path) -> None:
    now = versions()
    other = [f"{name} {was} (here {now.get(name, 'none')})" for name, was in stored.items() if now.get(name) != was]
    if other:
        warnings.warn(f"{path} was exported with {', '.join(other)}: scores may differ slightly", stacklevel=3)


def _backbone(header: dict[str, Any], path: Path, trust_code: bool, preprocess: Any) -> Any:
    from lightning_ood.backbone.stored import make_backbone
    from lightning_ood.deploy.folder import WEIGHTS
    from lightning_ood.deploy.spec import construct
    from lightning_ood.errors import InputError
    from lightning_ood.networks.weights import load_weights
    from lightning_ood.ops.checksums import weights_hash

    spec = header["network"]
    if "class_path" in spec:
        network = construct(spec, trust_code)
    else:
        with without_wandb():
            from lightning_ood.networks.build import build  # imports timm and torchvision

        name = spec["name"]
        if not name.startswith(("timm:", "torchvision:")) or name.startswith(("timm:hf-hub:", "timm:local-dir:")):
            raise InputError(f"{path}: the network {name!r} is no name of timm or torchvision; export again")
        network = build(name, weights="none", options=construct(spec["options"])).network
    load_weights(network, path / WEIGHTS)
    if weights_hash(network) != header["weights_hash"]:
        raise InputError(
            f"{path}: the network built here differs from the exported one; use the versions in its header"
        )
    reading = header["reading"]
    size, mean, std = preprocess.size, preprocess.mean, preprocess.std
    frozen = network.eval().requires_grad_(False)
    return make_backbone(frozen, size, reading["head"], mean, std, allow_random=reading["allow_random"])


def _suite(header: dict[str, Any], fits: Any, trust_code: bool) -> Any:
    from lightning_ood.deploy.spec import construct
    from lightning_ood.errors import InputError
    from lightning_ood.suite import DetectorSuite

    detectors = {name: construct(entry["spec"], trust_code) for name, entry in header["detectors"].items()}
    for name, detector in detectors.items():
        if detector.config() != header["detectors"][name]["config"]:
            raise InputError(
                f"detector {name!r} has other arguments in this version of lightning_ood than in that of the export "
                f"({header['versions']['lightning_ood']}); install that version, or export again"
            )
    suite = DetectorSuite(detectors)
    suite.fitted = {name: fits.get(name, {}) for name in suite.requiring_fit}
    return suite


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
