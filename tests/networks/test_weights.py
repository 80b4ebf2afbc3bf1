import argparse
import hashlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_ood.errors import InputError
from lightning_ood.networks.weights import load_weights
from lightning_ood.ops.checksums import weights_hash


def _net(classes: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, classes))


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in _net().state_dict().items()}


CONTENTS: dict[str, Any] = {
    "plain": _prefixed(""),
    "state_dict": {"epoch": 3, "state_dict": _prefixed(""), "optimizer": {"lr": 0.1}},
    "model": {"model": _prefixed(""), "args": argparse.Namespace(lr=0.1)},
    "nested twice": {"net": {"state_dict": _prefixed("")}},
    "ema": {"epoch": torch.tensor(3), "ema": _prefixed("")},
    "module.": {"state_dict": _prefixed("module.")},
    "lightning": {"state_dict": _prefixed("backbone.network.")},
    "compiled": _prefixed("module._orig_mod."),
    "numpy scalars": {
        "best": np.float64(91.5),
        "epoch": np.int64(3),
        "top": np.float32(1),
        "state_dict": _prefixed(""),
    },
    "old batch norm": {key: value for key, value in _prefixed("").items() if "num_batches" not in key},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", CONTENTS)
def test_usual_files_are_read(content: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth.tar"
    torch.save(CONTENTS[content], file, _use_new_zipfile_serialization=zipped)
    network = _net(seed=1)
    assert weights_hash(network) != weights_hash(_net())
    load_weights(network, file)
    assert weights_hash(network) == weights_hash(_net())


@pytest.mark.parametrize("name", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_scalars_of_either_numpy_are_read(name: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.th"
    torch.save({"best": np.float64(91.5), "state_dict": _prefixed("")}, file, _use_new_zipfile_serialization=False)
    written = file.read_bytes()
    file.write_bytes(re.sub(rb"numpy\._?core\.multiarray", name, written))
    assert name in file.read_bytes()
    network = _net(seed=1)
    load_weights(network, file)
    assert weights_hash(network) == weights_hash(_net())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(_prefixed("model."), tmp_path / "weights.safetensors")
    network = _net(seed=1)
    load_weights(network, tmp_path / "weights.safetensors")
    assert weights_hash(network) == weights_hash(_net())


def test_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    network = nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    other = nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    load_weights(other, tmp_path / "weights.pth")
    assert weights_hash(other) == weights_hash(network)


def test_other_class_count_is_said(tmp_path: Path) -> None:
    torch.save(_prefixed(""), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"weights.pth .* has 3 classes, the network's 10; set num_classes: 3"):
        load_weights(_net(classes=10), tmp_path / "weights.pth")


def test_mismatch_names_keys_and_shapes_and_changes_nothing(tmp_path: Path) -> None:
    state = _prefixed("module.")
    state["module.extra"] = torch.zeros(1)
    state["module.0.weight"] = torch.zeros(5, 9)
    del state["module.3.bias"]
    torch.save(state, tmp_path / "weights.pth")
    network = _net(seed=1)
    with pytest.raises(InputError) as error:
        load_weights(network, tmp_path / "weights.pth")
    text = str(error.value)
    assert "not in the file (1): 3.bias" in text
    assert "in the file alone (1): extra" in text
    assert "of another shape (1): 0.weight [5, 9] in the file, [5, 4] here" in text
    assert weights_hash(network) == weights_hash(_net(seed=1))


class _Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": _prefixed(""), "x": _Evil(f"touch {mark}")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"evil.pth holds a Python object \((posix|nt|os)\.system\).*refused"):
        load_weights(_net(), file)
    assert not mark.exists()


def test_plain_pickles_and_whole_modules_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Evil(f"touch {tmp_path / 'ran'}")))
    with pytest.raises(InputError, match=r"plain\.pth"):
        load_weights(_net(), tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()
    torch.save(_net(), tmp_path / "module.pth")
    with pytest.raises(InputError, match=r"module.pth holds a Python object \(torch.nn.modules.*state_dict\(\)"):
        load_weights(_net(), tmp_path / "module.pth")


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if file.suffix == ".pth":
        torch.save(_prefixed(""), file)
    else:
        save_file(_prefixed(""), file)
    for kept in (file.stat().st_size // 2, 0):
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(InputError, match=rf"{name} \({kept} bytes\) cannot be read as weights: it is truncated"):
            load_weights(_net(), file)


def test_missing_file_and_foreign_content(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no weight file"):
        load_weights(_net(), tmp_path / "none.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        load_weights(_net(), tmp_path / "list.pth")
    torch.save({"epoch": 3, "weights": {"0.weight": torch.zeros(5, 4)}}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"no tensors: epoch, weights\)"):
        load_weights(_net(), tmp_path / "odd.pth")


def test_the_hash_in_a_files_name_is_compared(tmp_path: Path) -> None:
    """As torch hub and timm write it; a date or a word is no hash."""
    torch.save(_prefixed(""), tmp_path / "weights.pth")
    found = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    for name in (f"weights-{found[:8]}.pth", f"a-b-{found}.pth.tar", "net-20240131.pth", "net-best.pth"):
        (tmp_path / name).write_bytes((tmp_path / "weights.pth").read_bytes())
        assert load_weights(_net(seed=1), tmp_path / name) == found
    wrong = (tmp_path / "weights.pth").rename(tmp_path / "weights-0676ba61.pth")
    network = _net(seed=1)
    with pytest.raises(InputError, match=r"weights-0676ba61\.pth has the SHA-256 .*its name says 0676ba61"):
        load_weights(network, wrong)
    assert weights_hash(network) == weights_hash(_net(seed=1))


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(_prefixed(""), tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    network = _net(seed=1)
    load_weights(network, tmp_path / "weights.pth")
    assert weights_hash(network) == weights_hash(_net())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "0.weight: 1 of 20"),
        (torch.inf, "NaN or infinite"),
        (1j, "complex weights .0.weight"),
    ],
)
def test_weights_that_are_no_real_numbers_are_refused(value: complex, message: str, tmp_path: Path) -> None:
    state = _net().state_dict()
    weight = state["0.weight"].to(torch.complex64) if isinstance(value, complex) else state["0.weight"].clone()
    weight[0, 0] = value
    torch.save({**state, "0.weight": weight}, tmp_path / "w.pth")
    net = _net(seed=1)
    before = weights_hash(net)
    with pytest.raises(InputError, match=message):
        load_weights(net, tmp_path / "w.pth")
    assert weights_hash(net) == before


class Settings:
    """A class of somebody's own among the hyper-parameters of a Lightning checkpoint."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __setstate__(self, state: Any) -> None:
        Path(state["mark"]).touch()


def test_objects_beside_the_tensors_are_neither_imported_nor_run(tmp_path: Path) -> None:
    mark, file, network = tmp_path / "ran", tmp_path / "last.ckpt", _net(seed=1)
    torch.save({"hyper_parameters": {"own": Settings(str(mark))}, "state_dict": _prefixed("model.")}, file)
    load_weights(network, file)
    assert weights_hash(network) == weights_hash(_net()) and not mark.exists()


def test_one_of_several_networks_is_chosen_by_prefix(tmp_path: Path) -> None:
    file, network = tmp_path / "last.ckpt", _net(seed=1)
    ema = {f"ema.module.{key}": value for key, value in _net(seed=2).state_dict().items()}
    torch.save({"state_dict": {**_prefixed("model."), **ema, "loss.weight": torch.ones(3)}}, file)
    with pytest.raises(InputError, match=r"write weights_prefix: model or ema\.module"):
        load_weights(network, file)
    with pytest.raises(InputError, match=r"no weights under 'mean'; write one of model, ema\.module"):
        load_weights(network, file, "mean")
    for prefix, seed in (("model.", 0), ("ema", 2), ("ema.module", 2)):
        load_weights(network, file, prefix)
        assert weights_hash(network) == weights_hash(_net(seed=seed))
