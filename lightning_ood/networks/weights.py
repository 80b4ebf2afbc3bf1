"""Weight files: read without running code in them, fitted to a network's names, or refused with the reason."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_ood.errors import InputError
from lightning_ood.ops.checksums import check_hash, check_zip
from lightning_ood.ops.unpickling import reason, refused_object

State = dict[str, Tensor]

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "state_dict_ema", "model_ema", "ema")
_PREFIXES = ("module.", "model.", "backbone.", "network.", "net.", "encoder.", "_orig_mod.")


def load_weights(network: nn.Module, path: str | Path, prefix: str | None = None) -> str:
    """Copies the weights of a file into a network, all or nothing.

    A ``.safetensors`` file, or anything that ``torch.save`` wrote of tensors and plain values: the state dict itself or
    one nested under a usual key (``state_dict``, ``model``, ...). Prefixes that wrappers add (``module.``, ...) are
    stripped where that makes names match, and a network may rename parts of names with an attribute ``renamed``.
    Objects of other classes beside the tensors, such as the hyper-parameters of a Lightning checkpoint, are replaced by
    empty ones; their modules are never imported.
    Counters of batches seen by batch norms may be missing (files of before torch 0.4.1).

    Args:
        network: the network, built with the file's number of classes.
        path: the file. A hash in its name (``resnet50-0676ba61.pth``) is compared with its bytes.
        prefix: takes the weights under this prefix alone (``ema`` of a file with ``model.*`` and ``ema.*``).

    Returns:
        the SHA-256 of the file.

    Raises:
        InputError: if the file is missing, damaged or holds code; if names or shapes differ from the network's; if a
            weight is complex, NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weight file {path}")
    found = check_hash(path)
    own = network.state_dict()
    whole, renamed = _tensors(_read(path), path), getattr(network, "renamed", {})
    fitting = fitting_prefixes(_rename(whole, renamed), own)
    state = _matching(whole if prefix is None else _under(whole, prefix, path, fitting), set(own), renamed)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    resized = [key for key in own if key in state and state[key].shape != own[key].shape]
    if not (missing or unexpected or resized):
        _check_values(path, {key: state[key] for key in own if key in state})
        network.load_state_dict(state, strict=False)
        return found
    several = f"\n  it holds such weights under a prefix: write weights_prefix: {' or '.join(fitting)}"
    mismatch = _mismatch(network, path, state, missing, unexpected, resized)
    raise InputError(mismatch + (several if fitting and prefix is None else ""))


def _check_values(path: Path, state: State) -> None:
    """Refuses complex weights, and those that are NaN or infinite."""
    for key, value in state.items():
        if value.is_complex():
            raise InputError(f"{path} holds complex weights ({key}); give the file of a network with real ones")
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise InputError(
                f"{path} holds weights that are NaN or infinite ({key}: {bad} of {value.numel()}): the training that "
                "wrote it diverged, or it is damaged; give another checkpoint"
            )


def _read(path: Path) -> Any:
    """What the file holds, through the reader that cannot run code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_zip(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever the bytes lead them to
        if name := refused_object(error):
            if isinstance(content := _without_objects(path), Mapping):
                return content
            raise InputError(
                f"{path} holds a Python object ({name}) beside tensors; reading it could run code, so it is refused. "
                "Where you trust the file, load it yourself and save the tensors alone: "
                "torch.save(network.state_dict(), 'weights.pth')"
            ) from None
        known = isinstance(error, SafetensorError | EOFError | RuntimeError | OSError | ValueError)
        first = reason(error) if known else type(error).__name__
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as weights: it is truncated, damaged or of another "
            f"format ({first[:150]})"
        ) from error


def _harmless() -> list[Any]:
    """Plain values that old training scripts left beside the weights, under the names that numpy had and has."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, argparse.Namespace, *kinds, *((scalar, name) for name in names)]


class _Inert:
    """Stands for an object of a class that is not imported: it takes any arguments and state, and keeps none."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _without_objects(path: Path) -> Any:
    """What an archive holds with an inert object in place of each that the reader refuses; None if it cannot tell.

    The names are read from the pickle, and nothing is imported. The reader itself refuses ``os`` and ``sys``.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stubs: list[Any] = [(type("_Inert", (_Inert,), {}), name) for name in unknown]
        with torch.serialization.safe_globals([*stubs, *_harmless()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the caller has the reader's first error
        return None


def fitting_prefixes(state: State, own: State) -> list[str]:
    """Returns the prefixes under which a state dict holds all weights of a network, in their shapes."""
    needed = {key: value.shape for key, value in own.items() if not key.endswith("num_batches_tracked")}
    if not needed:
        return []
    first = next(iter(needed))
    prefixes = [key.removesuffix(f".{first}") for key in state if key.endswith(f".{first}")]
    shapes = {key: value.shape for key, value in state.items()}
    return [p for p in prefixes if all(shapes.get(f"{p}.{key}") == shape for key, shape in needed.items())]


def _under(state: State, prefix: str, path: Path, fitting: list[str]) -> State:
    start = prefix.rstrip(".") + "."
    found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not found:
        names = fitting or sorted({key.partition(".")[0] for key in state})[:8]
        raise InputError(f"weights_prefix: {path} has no weights under {prefix!r}; write one of {', '.join(names)}")
    return found


def _tensors(content: Any, path: Path) -> State:
    """The state dict in what a file holds, whatever key it is nested under."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: names with their tensors")
    for key in _NESTED:
        if isinstance(content.get(key), Mapping) and content[key]:
            return _tensors(content[key], path)
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other or not content:
        raise InputError(
            f"{path} holds no state dict (no tensors: {_some(other) or 'it is empty'}); expected names with their "
            f"tensors, alone or under one of {', '.join(_NESTED)}"
        )
    return {str(key): value for key, value in content.items()}


def _matching(state: State, own: set[str], renamed: Mapping[str, str]) -> State:
    """The state under the names, of all strippings of prefixes, that match most of the network's."""
    candidates = [_rename(candidate, renamed) for candidate in _stripped(state)]
    return max(candidates, key=lambda candidate: len(own & candidate.keys()))  # the first, least stripped, of equals


def _rename(state: State, renamed: Mapping[str, str]) -> State:
    return {".".join(renamed.get(part, part) for part in key.split(".")): value for key, value in state.items()}


def _stripped(state: State) -> Iterator[State]:
    yield state
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in state):
            shorter = {key.removeprefix(prefix): value for key, value in state.items()}
            if len(shorter) == len(state):
                yield from _stripped(shorter)


def _mismatch(
    network: nn.Module, path: Path, state: State, missing: list[str], unexpected: list[str], resized: list[str]
) -> str:
    own = network.state_dict()
    lines = [f"{path} does not fit {type(network).__name__}:"]
    classes = _classes(network, state, resized)
    if classes and not missing and not unexpected:
        ours = own[resized[0]].shape[0]
        return (
            f"{lines[0]} the file's classifier has {classes} classes, the network's {ours}; set num_classes: {classes}"
        )
    if missing:
        lines.append(f"not in the file ({len(missing)}): {_some(missing)}")
    if unexpected:
        lines.append(f"in the file alone ({len(unexpected)}): {_some(unexpected)}")
    if resized:
        shapes = [f"{key} {list(state[key].shape)} in the file, {list(own[key].shape)} here" for key in resized]
        lines.append(f"of another shape ({len(resized)}): {_some(shapes, '; ')}")
    return "\n  ".join(lines)


def _classes(network: nn.Module, state: State, resized: list[str]) -> int | None:
    """The file's number of classes, where the rows of one linear layer are all that differs."""
    owners = {key.rpartition(".")[0] for key in resized}
    if len(owners) != 1 or not isinstance(network.get_submodule(next(iter(owners))), nn.Linear):
        return None
    own = network.state_dict()
    if any(state[key].shape[1:] != own[key].shape[1:] for key in resized):
        return None
    return state[resized[0]].shape[0]


def _some(names: list[str], separator: str = ", ") -> str:
    """The first few names and how many more there are."""
    rest = f"{separator}and {len(names) - 5} more" if len(names) > 5 else ""
    return separator.join(names[:5]) + rest
