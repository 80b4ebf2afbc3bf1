"""The output directory of a run: its checkpoints, and a marker file while a job runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.ops.checksums import changed, check_zip, checksums
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.files import PARTIAL, read_json, write_text
from lightning_ood.ops.processes import rank
from lightning_ood.ops.unpickling import reason, refused_object

SCORING = "ScoringCallback"  # key of the detectors among the callbacks of a checkpoint
CHECKSUMS = "checksums"  # key of a checkpoint: path of each value in it -> SHA-256


class DamagedError(InputError):
    """A checkpoint of this package is incomplete, or is not the one that was written; it has to be made again."""


class RunFolder:
    """The output directory of a run. Files are written atomically.

    Attributes:
        path: the directory.
        last: ``checkpoints/last.ckpt``, the fitted detectors (and trained weights).
        training: ``checkpoints/training.ckpt``, the last whole epoch of a training, there until it is over.
        trained: ``checkpoints/trained.ckpt``, weights alone, there as soon as the training is over.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.training = self.path / "checkpoints" / "training.ckpt"
        self.trained = self.path / "checkpoints" / "trained.ckpt"
        self._marker = self.path / "unfinished.json"

    @contextmanager
    def under_way(self, job: str) -> Iterator[None]:
        """Writes a marker file while a job runs, so that the next job can detect a crash."""
        with self._alone():
            self._begin(job)
            try:
                yield
            except InputError:
                self._end()  # an error for the user is no crash
                raise
            self._end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the lock of the folder on the first process; the system frees it whenever the process ends.

        Raises:
            InputError: if another run holds it.
        """
        if rank():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another run is under way in {self.path}: wait for it, or name another folder with "
                "--trainer.default_root_dir"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @rank_zero_only
    def _begin(self, job: str) -> None:
        if self._marker.is_file():
            try:
                last = read_json(self._marker)
            except InputError:  # written by a process that died
                last = {}
            job_before, started = last.get("job", "job"), last.get("started", "at an unknown time")
            rank_zero_print(
                f"The last {job_before} in {self.path} (started {started}) did not finish; only whole files are used"
            )
            for partial in self.path.rglob(PARTIAL):
                partial.unlink()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_text(self._marker, json.dumps({"job": job, "started": now, "process": os.getpid()}))

    @rank_zero_only
    def _end(self) -> None:
        self._marker.unlink(missing_ok=True)

    @staticmethod
    def save(path: Path, write: Callable[[Path], Any], first: bool = True) -> Path:
        """Calls ``write`` with a temporary path on every rank, then renames the file on rank 0 (``first``)."""
        partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        if first:
            partial.replace(path)
        return path


def with_checksums(content: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint holds and its checksums, for ``read_checkpoint`` to compare."""
    return {**content, CHECKSUMS: checksums(content)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint of this package; loads tensors and plain values only, never code.

    Raises:
        DamagedError: if the file is incomplete, or a value in it is not the one that was written.
        InputError: if another program wrote it.
    """
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        check_zip(path)  # before anything in it is read
    except ValueError as error:
        raise DamagedError(f"{path} is damaged ({error}): fit makes it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever the bytes lead it to
        if name := refused_object(error):
            raise InputError(
                f"{path} holds a Python object ({name}) beside tensors; reading it could run code, so it is refused: "
                "no checkpoint of this package holds one. Delete it, or give another"
            ) from None
        raise InputError(f"{path} cannot be read as a checkpoint: {reason(error)}") from error
    stored = content.pop(CHECKSUMS, None) if isinstance(content, dict) else None
    if not isinstance(stored, dict):
        raise InputError(
            f"{path} holds no checksums: an earlier version or another program wrote it. Run fit with --overwrite"
        )
    wrong = changed(content, stored)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DamagedError(
            f"{path} is damaged or was changed after it was written: {', '.join(wrong[:3])}{more} differ from their "
            "checksums. Run fit again"
        )
    return content


def fit_in(saved: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a checkpoint of ``fit`` holds of the network (source, hash, precision) and of the detectors.

    Raises:
        InputError: if it lacks either, or a part has another type.
    """
    try:
        backbone, state = saved["backbone"], saved["callbacks"][SCORING]
        said = [entry["said"] for entry in state.get("doubts", {}).values() if "spec" in entry]
        tensors = [value for fitted in state["fitted"].values() for value in fitted.values()]
        sound = all(isinstance(value, Tensor) for value in tensors) and isinstance(backbone["hash"], str)
        sound &= set(state["fitted"]) <= set(state["spec"]) and all(isinstance(lines, list) for lines in said)
        sound &= all(isinstance(value, Tensor) for value in saved["state_dict"].values())
        sound &= isinstance(saved.get("OODDataModule", {}).get("classes"), list | None)
        backbone["source"]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is no checkpoint that `fit` wrote: it lacks {error}") from error
    if not sound:
        raise InputError(f"{path} is no checkpoint that `fit` wrote: a part of it has another type. Run fit again")
    return backbone, state
