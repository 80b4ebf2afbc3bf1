"""The default logger: Weights & Biases, offline unless a key is configured, and never a prompt or a hang."""

import netrc
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ood import __version__

ANSWER_WITHIN = 30.0  # seconds for W&B to answer before the run goes on offline


def wandb_logger(folder: Path, job: str) -> WandbLogger:
    """A logger into the run's folder, in the project ``lightning_ood`` (or WANDB_PROJECT).

    Args:
        folder: of the run; its name is the run's name and group.
        job: ``fit`` or ``test``.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # what matters is said at the end of the run
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun") or not has_key()
    arguments: dict[str, Any] = {
        "name": f"{folder.name}-{job}",
        "project": os.environ.get("WANDB_PROJECT", "lightning_ood"),
        "group": os.environ.get("WANDB_RUN_GROUP", folder.name),
        "job_type": job,
        "tags": [f"lightning_ood-{__version__}"],
        "save_dir": folder,
        "settings": wandb.Settings(init_timeout=ANSWER_WITHIN),
    }
    if not offline:
        logger = WandbLogger(**arguments)
        try:
            _ = logger.experiment
            return logger
        except Exception as error:
            rank_zero_warn(f"W&B does not answer ({type(error).__name__}): this run is logged offline")
    logger = WandbLogger(**arguments, offline=True)
    logger._wandb_init.pop("anonymous", None)  # W&B warns about the mere word
    return logger


def code_version() -> dict[str, str]:
    """The package's version and, in a checkout, its commit; ``+`` where files differ from it."""
    version = {"lightning_ood": __version__}
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):  # installed without its history
        version["commit"] = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return version


def has_key() -> bool:
    """Whether a W&B key is configured: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        if path and Path(path).is_file():
            try:
                return netrc.netrc(path).authenticators(host) is not None
            except netrc.NetrcParseError:
                return False
    return False
