"""Writes what one pass over the images of a run yields: tables of stored features, and a config that reads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import yaml
from torch import Tensor

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.sets import Batch, ImageSet
from lightning_ood.engine.exact import check_exact, only_ours, unchanged
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.private_lightning import ChildProcesses
from lightning_ood.engine.run_dir import read_checkpoint
from lightning_ood.errors import InputError
from lightning_ood.features import Head, Reads
from lightning_ood.networks.stored import StoredFeatures
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.files import write_text, write_whole
from lightning_ood.ops.processes import gather, naming_the_dead
from lightning_ood.ops.transfer import beside

Form = Literal["safetensors", "npz", "parquet"]
CONFIG, HEAD = "features.yaml", "head.safetensors"


class Recorder(L.Callback):
    """Keeps index, label, logits and penultimate feature of each image of a pass, on the host."""

    def __init__(self) -> None:
        self.parts: dict[int, list[Tensor]] = {}  # loader -> batches [B, 2 + K + D] float64

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Plans a forward pass that reads nothing besides."""
        module: OODModule = pl_module  # type: ignore[assignment]
        self.parts = {}
        module.backbone.configure(Reads())

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch, of a test set too."""
        if outputs is not None:
            places = torch.stack([batch.index.cpu(), batch.label.cpu()], dim=1)  # [B, 2]
            numbers = torch.cat([outputs.logits, outputs.pooled], dim=1).cpu()  # [B, K + D]
            rows = torch.cat([places.double(), numbers.double()], dim=1)
            self.parts.setdefault(dataloader_idx, []).append(rows)

    on_test_batch_end = on_validation_batch_end

    def table(self, loader: int, images: ImageSet, module: OODModule) -> dict[str, Any]:
        """Brings the rows of all processes together, in order of the images; every process calls it.

        Returns:
            ``logits`` ``[N, K]`` and ``pooled`` ``[N, D]`` float32, ``index`` and ``labels`` ``[N]`` int64, and
            ``path`` where the images are files.
        """
        classes = module.backbone.probe.num_classes
        length = 2 + classes + module.backbone.probe.num_features
        mine = torch.cat(self.parts.pop(loader, [torch.zeros(0, length, dtype=torch.float64)]))
        rows = gather(beside(mine, next(iter(module.parameters())))).cpu()
        rows = rows[rows[:, 0].argsort()]
        index, labels = rows[:, 0].long().numpy(), rows[:, 1].long().numpy()
        numbers = rows[:, 2:].float().numpy()
        found = {"logits": numbers[:, :classes], "pooled": numbers[:, classes:]}
        found["index"] = np.array([images.position(i) for i in index], dtype=np.int64)
        found |= {"labels": labels} if (labels >= 0).any() else {}
        paths = [images.paths[i] for i in index]
        return found | ({} if None in paths else {"path": paths})


def record(trainer: L.Trainer, module: OODModule, data: OODDataModule, last: Path, output: Path, form: Form) -> None:
    """Sends every image of a run through the network once and writes tables, classifier and config to a folder.

    A set is held in the memory of each process until it is written.

    Args:
        trainer: without a ``ScoringCallback``.
        module: the network.
        data: its sets; those without images of a kind are left out.
        last: checkpoint of ``fit``, from which trained weights are read.
        output: the folder.
        form: ending and format of the tables.

    Raises:
        InputError: if trained weights are missing.
    """
    check_exact(trainer)
    if module.finetune != "none":
        if not last.is_file():
            raise InputError(f"the network must be trained first, and there is no {last}: run fit with this config")
        module.load_state_dict(read_checkpoint(last)["state_dict"], strict=False)
    recorder = Recorder()
    written: dict[str, str] = {}
    with naming_the_dead(ChildProcesses(trainer), trainer.world_size), only_ours(trainer, recorder):
        for run, sets in (
            (trainer.validate, lambda: {"train": data.train_set, **data.val_ood_sets}),
            (trainer.test, lambda: {key: entry.images for key, entry in data.sets.items()}),
        ):
            with unchanged(module, "the pass"):
                run(module, datamodule=data, verbose=False)
            written |= _write_all(recorder, sets, module, output, form, trainer.is_global_zero)
    if trainer.is_global_zero:
        _write_config(module, data, written, output)
    trainer.strategy.barrier()
    rank_zero_print(f"Features of {len(written)} sets are in {output}; run them with --config {output / CONFIG}")


def _write_all(
    recorder: Recorder,
    sets: Callable[[], dict[str, Any]],
    module: OODModule,
    output: Path,
    form: Form,
    first: bool,
) -> dict[str, str]:
    """Writes the sets of one pass on the first process; returns key of the set -> file below the folder."""
    written = {}
    for loader, (key, images) in enumerate(sets().items()):
        table = recorder.table(loader, images, module)
        name = f"{key if key != 'id' else 'test'}.{form}"
        if first:
            write_whole(output / name, partial(_WRITERS[form], table))
        written[key] = name
    return written


def _write_config(module: OODModule, data: OODDataModule, written: dict[str, str], output: Path) -> None:
    head = module.backbone.head
    probe = module.backbone.probe
    sizes = {"num_classes": probe.num_classes, "num_features": probe.num_features, "head": head is not None}
    if head is not None:
        write_whole(output / HEAD, lambda path: _save_head(path, head))
    groups: dict[str, dict[str, str]] = {"ood": {}, "val_ood": {}, "csid": {}}
    for key, name in written.items():
        group, _, rest = key.partition("/")
        if rest:
            groups[group][rest] = str((output / name).absolute())
    train, test = (str((output / written[key]).absolute()) for key in ("train", "id"))
    path = f"{StoredFeatures.__module__}.{StoredFeatures.__qualname__}"
    weights = "none" if head is None else str((output / HEAD).absolute())
    content = {
        "model": {"network": {"class_path": path, "init_args": sizes}, "weights": weights},
        "data": {"id": {"name": data.id.name, "train": train, "test": test}}
        | ({} if data.limit is None else {"limit": data.limit})
        | {group: named for group, named in groups.items() if named},
    }
    write_text(output / CONFIG, yaml.safe_dump(content, sort_keys=False))


def _save_head(path: Path, head: Head) -> None:
    from safetensors.torch import save_file

    save_file({"weight": head.weight.cpu().contiguous(), "bias": head.bias.cpu().contiguous()}, path)


def _save_npz(table: dict[str, Any], path: Path) -> None:
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in table.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _save_safetensors(table: dict[str, Any], path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(values) for name, values in table.items() if name != "path"}
    save_file(arrays, path, {"path": "\n".join(table["path"])} if "path" in table else None)


def _save_parquet(table: dict[str, Any], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: list(values) if np.ndim(values) == 2 else values for name, values in table.items()}
    with path.open("wb") as file:
        pq.write_table(pa.table(columns), file)


_WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "npz": _save_npz,
    "parquet": _save_parquet,
    "safetensors": _save_safetensors,
}
