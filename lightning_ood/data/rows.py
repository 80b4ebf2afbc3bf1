"""Tables of stored features: a row of logits and penultimate feature stands for an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_ood.data.images import ImageError
from lightning_ood.data.labels import NONE, known
from lightning_ood.data.sets import ImageSet, Item
from lightning_ood.errors import InputError, context

ENDINGS = (".npz", ".parquet", ".safetensors")
_ALIASES = {"pooled": ("pooled", "features", "embeddings"), "labels": ("labels", "label", "targets")}


def is_table(spec: object) -> bool:
    """Tells whether a set is given by the path of a table of features."""
    return isinstance(spec, str | Path) and Path(spec).suffix.lower() in ENDINGS


def read_table(path: Path) -> dict[str, Any]:
    """Reads a table of features: ``.npz``, ``.parquet`` (lists of numbers in a column) or ``.safetensors``.

    Returns:
        ``pooled`` ``[N, D]`` float32; ``logits`` ``[N, K]`` float32, ``labels`` ``[N]`` int64 and ``path``, a list of
        N strings, where the file has them.

    Raises:
        InputError: if the file cannot be read, lacks ``pooled``, or its arrays differ in length.
    """
    with context(str(path)):
        if not path.is_file():
            raise InputError("there is no such file")
        try:
            found = _READERS[path.suffix.lower()](path)
        except InputError:
            raise
        except Exception as error:  # readers raise whatever the bytes lead them to
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"it cannot be read as a table of features ({reason})") from error
        return _checked(found)


def _checked(found: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: next((key for key in keys if key in found), None) for name, keys in _ALIASES.items()}
    if named["pooled"] is None:
        names = ", ".join(found) or "nothing"
        raise InputError(f"it has no `pooled` [N, D], the penultimate features; it has {names}")
    table: dict[str, Any] = {"pooled": _matrix(found[named["pooled"]], "pooled")}
    if "logits" in found:
        table["logits"] = _matrix(found["logits"], "logits")
    if named["labels"] is not None:
        table["labels"] = torch.as_tensor(np.asarray(found[named["labels"]]).astype(np.int64)).reshape(-1)
    if "path" in found:
        table["path"] = [None if value is None else str(value) for value in found["path"]]
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) > 1:
        raise InputError("its arrays differ in length: " + ", ".join(f"{name} {n}" for name, n in lengths.items()))
    return table


def _matrix(values: Any, name: str) -> Tensor:
    matrix = torch.as_tensor(np.asarray(values, dtype=np.float32))
    if matrix.ndim != 2:
        raise InputError(f"`{name}` has the shape {list(matrix.shape)}: give it two dimensions, [N, …]")
    bad = (~matrix.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        raise InputError(f"`{name}` is not finite in {len(bad)} rows, the first is {int(bad[0])}")
    return matrix


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        table = pq.read_table(file)
    found: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        lists = str(column.type).startswith(("list", "fixed_size_list", "large_list"))
        if lists and len(column):
            flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
            if len(flat) % len(column):
                raise InputError(f"the lists in `{name}` differ in length")
            found[name] = flat.reshape(len(column), -1)
        else:
            found[name] = column.to_pylist()
    return found


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    found: dict[str, Any] = load_file(path)
    with safe_open(path, framework="numpy") as file:
        paths = (file.metadata() or {}).get("path")
    return {**found, **({} if paths is None else {"path": paths.split("\n")})}


_READERS = {".npz": _npz, ".parquet": _parquet, ".safetensors": _safetensors}


class RowSet(ImageSet):
    """Rows of a table of features; an item's ``image`` is a row ``[K + D]``, or ``[D]`` without logits."""

    def __init__(self, path: Path, labelled: bool = True) -> None:
        table = read_table(path)
        parts = [table[name] for name in ("logits", "pooled") if name in table]
        self.rows = torch.cat(parts, dim=1)  # [N, K + D]
        if not len(self.rows):
            raise InputError(f"{path} is empty")
        labels = table.get("labels") if labelled else None
        paths = table.get("path") or [None] * len(self.rows)
        super().__init__(path.stem, None if labels is None else known(labels), None, paths)
        self._labels, self.labelled = labels, labelled

    @property
    def files(self) -> list[None]:
        """No image has a file of its own: whether rows have changed, only their numbers tell."""
        return [None] * len(self.rows)

    def _keep(self, positions: Tensor) -> None:
        super()._keep(positions)
        self.rows = self.rows[positions]
        self._labels = None if self._labels is None else self._labels[positions]

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Raises an ImageError: there is no image."""
        raise ImageError(f"{self.name}[{self.position(index)}]: a row of stored features is no image")

    def __getitem__(self, index: int) -> Item:
        """Returns a row with its label and position."""
        return Item(self.rows[index], NONE if self._labels is None else int(self._labels[index]), index)

    def pixels(self, index: int) -> tuple[bytes, tuple[int, int] | None]:
        """Returns the bytes of a row; it has no size."""
        return self.rows[index].numpy().tobytes(), None
