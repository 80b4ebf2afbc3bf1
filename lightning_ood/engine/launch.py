"""What is checked while a trainer is made: its precision, its arguments, and what started this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_ood.errors import InputError

KEEPS_WEIGHTS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")  # values of trainer.precision


@contextmanager
def making_trainer(precision: object = None) -> Iterator[None]:
    """Turns whatever Lightning raises while it makes a trainer into one sentence: it is about the arguments given.

    Args:
        precision: of the trainer; None is Lightning's default.

    Raises:
        InputError: if Lightning refuses an argument or a variable of the environment, or the precision casts weights.
    """
    if precision is not None:
        check_precision(precision)
    _leave_slurm_without_srun()
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        raise InputError(f"the trainer cannot be made: {kind}{' '.join(str(error).split())}") from error


def check_precision(precision: object) -> None:
    """Refuses a precision that casts the network's weights.

    Raises:
        InputError: if it does; the features of the cast network are not those of the published or trained one.
    """
    if str(precision) not in KEEPS_WEIGHTS:
        raise InputError(
            f"--trainer.precision {precision} casts the network's weights, which makes another network of it: write "
            "bf16-mixed for faster arithmetic on the same weights, or 32-true"
        )


def _leave_slurm_without_srun() -> None:
    """Keeps Lightning from waiting for processes that ``srun`` has not started, such as in an ``salloc`` shell.

    Lightning takes every process of a SLURM job for one of ``SLURM_NTASKS`` that ``srun`` started, unless the job's
    name says otherwise.
    """
    if "SLURM_NTASKS" in os.environ and not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys():
        os.environ["SLURM_JOB_NAME"] = "interactive"
