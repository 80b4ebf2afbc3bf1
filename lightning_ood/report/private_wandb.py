"""What the package uses of W&B and of Lightning's ``WandbLogger`` beyond their public attributes.

``tests/test_private.py`` checks that each name still exists. The logger's type is not imported: this wing does not know
Lightning.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def init_arguments(logger: Any) -> dict[str, Any]:
    """Returns the arguments of ``wandb.init``, which may be changed until the run begins."""
    arguments: dict[str, Any] = logger._wandb_init
    return arguments


def set_folder(logger: Any, folder: Path) -> None:
    """Sets the folder that W&B's files go to, for the logger and for ``wandb.init``."""
    logger._wandb_init["dir"] = logger._save_dir = str(folder)


def sync_names(logger: Any) -> None:
    """Gives the logger the project and the name that stand among the arguments of ``wandb.init``."""
    logger._project, logger._name = logger._wandb_init["project"], logger._wandb_init.get("name")


def uploads_models(logger: Any) -> bool:
    """Returns True if checkpoints are uploaded whatever their size."""
    return bool(logger._log_model)


def upload_models(logger: Any) -> None:
    """Uploads checkpoints whatever their size."""
    logger._log_model = True


def has_run(logger: Any) -> bool:
    """Returns True if the logger's run has begun."""
    return logger._experiment is not None


def adopt_run(logger: Any, run: Any) -> None:
    """Continues a run that has begun elsewhere in this process, if the logger has none of its own."""
    logger._experiment = logger._experiment or run


def is_offline(logger: Any) -> bool:
    """Returns True if the run is written to disk alone."""
    return bool(logger._offline)


def go_offline(logger: Any) -> None:
    """Writes the run to disk alone, whatever the environment said when W&B was imported."""
    logger._offline = True
    logger._wandb_init["mode"] = "offline"


def use_artifact(run: Any, artifact: Any) -> None:
    """Names a new artifact as an input of a run, in the background and also offline.

    ``Run.use_artifact`` does the same, but waits for the server, and refuses an offline run.
    """
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def skip_launcher() -> None:
    """Keeps W&B from importing its launcher, 0.8 s of CPU time, when a run begins.

    It looks for inputs that a launch has staged, which none has where the launcher was not imported before.
    """
    from wandb.sdk.wandb_run import Run

    apply = getattr(Run, "_detect_and_apply_job_inputs", None)
    if apply is None or apply.__module__ == __name__:
        return

    def apply_staged(run: Any) -> None:
        if "wandb.sdk.launch.inputs.internal" in sys.modules:
            apply(run)

    setattr(Run, "_detect_and_apply_job_inputs", apply_staged)  # noqa: B010  # mypy refuses to assign to a method
