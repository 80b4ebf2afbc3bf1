"""Weights & Biases as its users know it; offline unless a key is configured, and never a prompt or a hang."""

import json
import netrc
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report.environment import code_version

ANSWER_WITHIN = 30.0  # seconds for W&B to answer before the run goes on offline
UPLOAD_WITHIN = 600.0  # seconds for the last of it at the end; what is left then is on disk for `wandb sync`
_SET_HERE = ("WANDB_DATA_DIR", "WANDB_JOB_TYPE", "WANDB_MODE")  # here, by fit_test, by Lightning
_SECRET = re.compile(r"(^|_)(api_?key|password|secret|credentials|token)$", re.IGNORECASE)


def prepare(logger: WandbLogger, folder: Path, job: str, tags: Sequence[str] = ()) -> WandbLogger:
    """Fills in what neither the logger's arguments nor W&B's environment variables say, and begins the run.

    Args:
        logger: of Lightning, with or without arguments.
        folder: of the run; its name is the group's, W&B's files go there.
        job: ``fit``, ``test`` or ``fit_test``, unless WANDB_JOB_TYPE is set.
        tags: unless WANDB_TAGS is set.

    Returns:
        The logger; offline where no key is configured or W&B does not answer.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # what matters is said at the end of the run
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.absolute() / "wandb"))  # an offline run's artifacts wait here
    folder.mkdir(parents=True, exist_ok=True)
    arguments = logger._wandb_init
    if arguments["anonymous"] is None:
        del arguments["anonymous"]  # W&B warns about the mere word
    for key, value in _defaults(folder, os.environ.get("WANDB_JOB_TYPE", job), tags).items():
        if arguments.get(key) is None:
            arguments[key] = value
    if arguments["project"] == "lightning_logs":  # what Lightning writes where none is named
        arguments["project"] = "lightning_ood"
    if arguments.get("dir") in (None, "."):
        arguments["dir"] = logger._save_dir = str(folder)
    logger._project, logger._name = arguments["project"], arguments.get("name")
    if os.environ.get("WANDB_LOG_MODEL", "false").lower() in ("true", "end", "checkpoint"):
        logger._log_model = True
    _begin(logger)
    return logger


def _defaults(folder: Path, job: str, tags: Sequence[str]) -> dict[str, Any]:
    import wandb

    ours = {
        "WANDB_JOB_TYPE": ("job_type", job),
        "WANDB_TAGS": ("tags", [tag[:64] for tag in tags]),
        "WANDB_RUN_GROUP": ("group", folder.name),
        "WANDB_NAME": ("name", f"{folder.name}-{job}"),
    }
    if os.environ.get("WANDB_SWEEP_ID"):  # the sweep is the group, and names its runs
        del ours["WANDB_RUN_GROUP"], ours["WANDB_NAME"]
    settings = wandb.Settings()
    for name, seconds in {"init_timeout": ANSWER_WITHIN, "finish_timeout": UPLOAD_WITHIN}.items():
        if f"WANDB_{name.upper()}" not in os.environ and hasattr(settings, name):  # the latter is not in every version
            setattr(settings, name, seconds)
    given = {key: value for variable, (key, value) in ours.items() if variable not in os.environ}
    return {**given, "settings": settings}


def _begin(logger: WandbLogger) -> None:
    import wandb

    logger._experiment = logger._experiment or wandb.run  # fit's, where one command fits and tests
    mode = os.environ.get("WANDB_MODE") or logger._wandb_init.get("mode")
    logger._offline = logger._offline or mode in ("offline", "dryrun") or (mode != "disabled" and not has_key())
    if logger._experiment is None and not logger._offline:
        try:
            if url := getattr(logger.experiment, "url", None):
                rank_zero_print(f"W&B: {url}")
            return
        except Exception as error:
            rank_zero_warn(f"W&B does not answer ({type(error).__name__}): this run is logged offline")
            logger._offline = True
    if logger._offline:
        logger._wandb_init.pop("mode", None)


@contextmanager
def closing() -> Iterator[None]:
    """Ends the W&B run that a command began, with the command's exit code; what goes wrong then is told, no more."""
    before, environment = _current(), {name: os.environ.get(name) for name in _SET_HERE}
    code = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    finally:
        run = _current()
        if run is not None and run is not before:
            try:
                run.finish(exit_code=code)
            except Exception as error:
                print(f"warning: W&B could not end its run: {type(error).__name__}: {error}", file=sys.stderr)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _current() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def hyperparameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every resolved argument in plain values, with the version of the code; secrets are blanked."""
    plain = json.loads(json.dumps(options, default=str))
    return {**_without_secrets(plain), **code_version()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "***" if isinstance(item, str) and _SECRET.search(key) else _without_secrets(item)
        for key, item in value.items()
    }


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
