"""A network from a timm name, a torchvision name or the user's own module, with its weights and its preprocessing."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn

from lightning_ood.errors import InputError, close_names
from lightning_ood.networks.attach import attach_head, attach_text
from lightning_ood.networks.online import hub, reachable
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.networks.source import Source
from lightning_ood.networks.weights import load_weights
from lightning_ood.ops.checksums import check_hash

_SUFFIXES = (".pth", ".pt", ".tar", ".th", ".bin", ".ckpt", ".safetensors")
_ELSEWHERE = ("hf-hub:", "local-dir:")  # timm's own words for a repository and a folder that hold config and weights


@dataclass(frozen=True)
class Built:
    """A network that is ready to be frozen.

    Attributes:
        network: the network, in eval mode.
        preprocess: preprocessing of test images.
        source: origin of the network and its weights.
    """

    network: nn.Module
    preprocess: Preprocess
    source: Source


def build(
    name: str | None = None,
    network: nn.Module | None = None,
    weights: str = "pretrained",
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    root: Path = Path(),
    sha256: str | None = None,
    weights_prefix: str | None = None,
    text: str | None = None,
) -> Built:
    """Builds a network, loads its weights and derives its preprocessing.

    Args:
        name: ``timm:resnet50.a1_in1k``, ``torchvision:resnet50``, or without a prefix: timm's where it has the
            name, else torchvision's. timm's ``hf-hub:...`` and ``local-dir:...`` are names too, and ``hf:...`` is a
            repository or folder of transformers.
        network: a module instead of a name. Its attribute ``default_cfg``, in timm's format, gives its preprocessing.
        weights: ``pretrained``, ``none`` (random; of a module, its own), a file, or an entry of torchvision's enum
            (``IMAGENET1K_V1``). The file ``digits.safetensors`` comes with the package.
        options: keyword arguments of the named network, such as ``num_classes``. With a module, ``num_classes`` alone:
            it returns features, and gets a linear head with random weights.
        preprocess: fields of ``Preprocess`` that replace the derived ones.
        root: folder that a relative path of a weight file starts from.
        sha256: SHA-256 of the weight file, or at least its first 8 hex digits; another file is refused.
        weights_prefix: takes the weights under this prefix of the file alone, such as ``ema``.
        text: a safetensors file of text embeddings, which become the head of an image tower (zero-shot labels).

    Raises:
        InputError: if the name, an option or the file is unknown, or the weights do not fit or cannot be downloaded.
    """
    options, changes = dict(options or {}), dict(preprocess or {})
    if (name is None) == (network is None):
        raise InputError("give either the name of a network or a network (class_path), and not both")
    if weights_prefix is not None and not _located(weights, root).is_file():
        raise InputError(f"weights_prefix belongs to a weight file, and weights are {weights!r}: give weights: FILE")
    if sha256 is not None:
        _check_file(_located(weights, root), sha256)
    if text is not None:
        built = build(name, network, weights, options, preprocess, root, None, weights_prefix)
        return attach_text(built, root / Path(text).expanduser())
    if network is not None:
        return _own(network, weights, options, changes, root, weights_prefix)
    assert name is not None
    if options.get("in_chans", 3) != 3:
        raise InputError(
            f"{name}: options.in_chans {options['in_chans']} reads images of another number of channels, and images "
            "are given as RGB (a grey image has its channel three times); leave out options.in_chans"
        )
    if name.startswith("hf:"):
        return _transformers(name.removeprefix("hf:"), weights, options, changes, root, weights_prefix)
    library, short = _library(name)
    if library == "timm":
        return _timm(short, weights, options, changes, root, weights_prefix)
    return _torchvision(short, weights, options, changes, root, weights_prefix)


def _library(name: str) -> tuple[str, str]:
    """``(timm or torchvision, name there)``."""
    prefix, _, short = name.partition(":")
    library, short = (prefix, short) if prefix in ("timm", "torchvision") else ("", name)
    if library != "torchvision" and (short.startswith(_ELSEWHERE) or timm.is_model(short)):
        return "timm", short
    ours = torchvision.models.list_models(module=torchvision.models)
    if library != "timm" and short in ours:
        return "torchvision", short
    close = [f"timm:{other}" for other in close_names(short.partition(".")[0], timm.list_models(), 4)]
    close += [f"torchvision:{other}" for other in close_names(short, ours)]
    hint = f"; write one of {', '.join(close)}" if close else ""
    raise InputError(f"no network is called {name!r} in {library or 'timm or torchvision'}{hint}")


def _own(
    network: nn.Module, weights: str, options: dict[str, Any], changes: dict[str, Any], root: Path, prefix: str | None
) -> Built:
    kind = type(network).__name__
    if options.keys() - {"num_classes"}:
        raise InputError(
            f"options {sorted(options)} belong to a named network; give them to {kind} as init_args (num_classes alone "
            "puts a linear head on a network that returns features)"
        )
    if weights == "pretrained":
        raise InputError(f"there are no published weights for {kind}: give weights: FILE, or weights: none")
    config: Any = getattr(network, "default_cfg", None) or getattr(network, "pretrained_cfg", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if config and config.get("input_size", (3,))[0] != 3:
        raise InputError(
            f"{kind}: default_cfg has input_size {tuple(config['input_size'])}, but images are RGB, [3, H, W]; "
            "average the channels in forward and write input_size (3, H, W), with 3 values in mean and std"
        )
    described = Preprocess.from_config(config).override(**changes) if config else Preprocess.of(**changes)
    built = _filled(network, described, Source("own", kind), weights, root, prefix)
    return _headed(built, options.get("num_classes"))


def _headed(built: Built, num_classes: int | None) -> Built:
    """Puts a linear head of ``num_classes`` on a network that returns features; leaves others as they are."""
    if not num_classes:
        return built
    return replace(built, network=attach_head(built.network, num_classes, built.preprocess.size).eval())


def _transformers(
    name: str, weights: str, options: dict[str, Any], changes: dict[str, Any], root: Path, prefix: str | None
) -> Built:
    from lightning_ood.networks.huggingface import load, preprocess_values

    num_classes = options.pop("num_classes", None)
    file = None if weights == "pretrained" else _file(weights, root)
    local = root / Path(name).expanduser()
    where = str(local) if (local / "config.json").is_file() else name
    try:
        with hub(remote=where == name):
            network = load(where, weights == "pretrained", options)
            described = Preprocess.of(**{**preprocess_values(where), **changes})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(_missing(f"hf:{name}", error)) from error
    source = Source("hf", name)
    if weights == "pretrained":
        built = Built(network.eval(), described, replace(source, kind="library", weights="pretrained"))
    else:
        built = _filled(network, described, source, str(file or "none"), root, prefix)
    return built if network.classifier else _headed(built, num_classes)


def _timm(
    name: str, weights: str, options: dict[str, Any], changes: dict[str, Any], root: Path, prefix: str | None
) -> Built:
    pretrained = weights == "pretrained"
    file = None if pretrained else _file(weights, root)  # reports a wrong path before the network is built
    if name.startswith("local-dir:"):
        name = f"local-dir:{_folder(name.removeprefix('local-dir:'), root)}"
    remote = name.startswith("hf-hub:") or (pretrained and not name.startswith("local-dir:"))
    try:
        with hub(remote):
            network: Any = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:  # neither cached nor downloadable
        raise InputError(_missing(f"timm:{name}", error)) from error
    except Exception as error:  # wrong options and damaged files raise errors of any type
        raise InputError(_refused(f"timm:{name}", options, error)) from error
    config = network.pretrained_cfg
    if pretrained and config.get("num_classes") and network.num_classes not in (0, config["num_classes"]):
        warnings.warn(
            f"timm:{name} was published with {config['num_classes']} classes; its classifier of {network.num_classes} "
            "starts from random numbers and has to be trained",
            stacklevel=3,
        )
    described = Preprocess.from_timm(network)
    if "img_size" in options:
        described = described.override(size=options["img_size"])
    described = described.override(**changes)
    if pretrained:
        return Built(network.eval(), described, Source("timm", name, "library", "pretrained"))
    return _filled(network, described, Source("timm", name), str(file or "none"), root, prefix)


def _torchvision(
    name: str, weights: str, options: dict[str, Any], changes: dict[str, Any], root: Path, prefix: str | None
) -> Built:
    entries = {entry.name: entry for entry in torchvision.models.get_model_weights(name)}
    default = getattr(torchvision.models.get_model_weights(name), "DEFAULT", None)
    entry = default if weights == "pretrained" else entries.get(weights)
    if weights == "pretrained" and entry is None:
        raise InputError(f"torchvision has no weights for {name}: give weights: FILE")
    file = _file(weights, root, tuple(entries)) if entry is None else None
    if entry is not None:
        _downloadable(f"torchvision:{name}", entry.url)
    try:
        network = torchvision.models.get_model(name, weights=entry, **options)
    except OSError as error:
        raise InputError(_missing(f"torchvision:{name}", error)) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(_refused(f"torchvision:{name}", options, error)) from error
    # a local copy of a published file takes its own entry's preprocessing, whose crop may differ from the default's
    same = next((other for other in entries.values() if file and Path(other.url).name == file.name), default)
    described = Preprocess.from_torchvision(entry or same).override(**changes)
    if entry is not None:
        return Built(network.eval(), described, Source("torchvision", name, "library", entry.name))
    return _filled(network, described, Source("torchvision", name), weights, root, prefix)


def _filled(
    network: nn.Module, preprocess: Preprocess, source: Source, weights: str, root: Path, prefix: str | None
) -> Built:
    """Loads a weight file into the network; with ``none`` keeps the weights that it has."""
    file = _file(weights, root)
    if file is None:
        kind: Any = "own" if source.library == "own" and not _ships(network) else "random"
        return Built(network.eval(), preprocess, replace(source, kind=kind))
    found = load_weights(network, file, prefix)
    return Built(network.eval(), preprocess, replace(source, kind="file", weights=str(file), sha256=found))


def _ships(network: nn.Module) -> bool:
    """Whether a network is one of the package's own architectures, which start from random numbers."""
    return type(network).__module__.startswith("lightning_ood.")


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise InputError(f"sha256 is the hash of a weight file, and there is no file {path}: give weights: FILE")
    check_hash(path, sha256)


def _file(weights: str, root: Path, entries: tuple[str, ...] = ()) -> Path | None:
    """Returns the weight file that ``weights`` names, or None for ``none``."""
    if weights == "none":
        return None
    path = _located(weights, root)
    if path.is_file():
        return path
    if path.suffix in _SUFFIXES:
        raise InputError(f"there is no weight file {path} (a relative path starts from {root.resolve()})")
    words = ", ".join(("pretrained", "none", *entries))
    raise InputError(f"weights {weights!r} are neither one of {words} nor a file ({path} does not exist)")


def _located(weights: str, root: Path) -> Path:
    """Returns the path of a weight file: below the root, else one that comes with the package (digits.safetensors)."""
    path, ours = root / Path(weights).expanduser(), Path(__file__).parent / weights
    return ours if ours.suffix == ".safetensors" and ours.is_file() and not path.is_file() else path


def _folder(given: str, root: Path) -> Path:
    """Returns the path of a folder that ``timm.models.save_for_hf`` wrote, with config and weights."""
    path = root / Path(given).expanduser()
    if not (path / "config.json").is_file():
        raise InputError(f"there is no {path / 'config.json'}: local-dir: names a folder with it and the weights")
    return path


def _downloadable(what: str, url: str) -> None:
    """Raises early if torch.hub holds a damaged file, or would have to download one that is out of reach."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if cached.is_file():
        check_hash(cached)
    elif not reachable(url):
        raise InputError(_missing(what, f"{url} is out of reach, {cached} does not exist"))


def _missing(what: str, error: object) -> str:
    offline = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
    reason = "no connection" if offline else (str(error).splitlines() or [""])[0][:200]
    return (
        f"no pretrained weights for {what}: they are not in the cache and cannot be downloaded ({reason}). Give a file "
        "with weights: FILE (.pth, .safetensors), run once with a network connection, or take weights: none"
    )


def _refused(what: str, options: Mapping[str, Any], error: Exception) -> str:
    hint = ""
    if "tag" in str(error):
        base = what.removeprefix("timm:").partition(".")[0]
        hint = f"; its published weights: {', '.join(timm.list_pretrained(base + '.*')) or 'none'}"
    given = f" with options {dict(options)}" if options else ""
    return f"{what}{given} cannot be built: {str(error) or type(error).__name__}{hint}"
