"""Logging to Weights & Biases: offline unless a key is configured, and it never prompts or hangs."""

import json
import netrc
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ood.engine.guarded import guard
from lightning_ood.errors import InputError
from lightning_ood.networks.online import reachable
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.secrets import scrub, without_secrets
from lightning_ood.report import private_wandb as private
from lightning_ood.report.environment import code_version
from lightning_ood.report.fit_record import read_record

ANSWER_WITHIN = 8.0  # seconds for W&B to begin a run; with its start the run goes on offline within 10
UPLOAD_WITHIN = 600.0  # seconds for the rest of the upload at the end; what is left is on disk for `wandb sync`
_NOT_IN_PROJECT = re.compile(r"[/\\#?%:]")
_PROJECT = 128  # letters of a project's name, at most
_SET_HERE = ("WANDB_DATA_DIR", "WANDB_JOB_TYPE", "WANDB_MODE")  # by prepare, by fit_test, by Lightning


def make_ready(
    loggers: Iterable[Logger], folder: Path, job: str, tags: Sequence[str] = (), one_run: bool = False
) -> None:
    """Completes the arguments of W&B's loggers, and makes every logger warn where it would raise.

    Args:
        loggers: Lightning's.
        folder: the run's output directory.
        job: as in :func:`prepare`, like ``tags``.
        tags: W&B's tags.
        one_run: a test continues the W&B run of the last fit in the folder, and both are of the job type ``fit_test``.

    Raises:
        InputError: if W&B's project has a name that W&B does not take.
    """
    run_id = _run_of_fit(folder) if one_run and job == "test" else None
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            try:
                prepare(logger, folder, "fit_test" if one_run else job, tags, run_id)
            except InputError:
                raise
            except Exception as error:  # such as a variable of W&B's that it cannot read
                rank_zero_warn(f"W&B cannot be set up ({_first(error)}): the run continues without it")
        guard(logger)


def _run_of_fit(folder: Path) -> str | None:
    run_id = read_record(folder).run_id
    if not run_id:
        rank_zero_print(f"--one_run: no fit in {folder} was logged to W&B; the test gets a run of its own")
    return run_id or None


def prepare(
    logger: WandbLogger, folder: Path, job: str, tags: Sequence[str] = (), run_id: str | None = None
) -> WandbLogger:
    """Completes the logger's arguments where neither they nor W&B's environment variables are set, and begins the run.

    Args:
        logger: Lightning's, with or without arguments.
        folder: the run's output directory; its name is W&B's group, and W&B's files go there.
        job: ``fit``, ``test`` or ``fit_test``, unless WANDB_JOB_TYPE is set.
        tags: W&B's tags, unless WANDB_TAGS is set.
        run_id: the run to continue, unless WANDB_RUN_ID is set; a new one where None.

    Returns:
        The logger; offline where no key is configured or W&B does not answer.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the end of the run prints where the logs are
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.absolute() / "wandb"))  # for artifacts of an offline run
    folder.mkdir(parents=True, exist_ok=True)
    arguments = private.init_arguments(logger)
    if arguments["anonymous"] is None:
        del arguments["anonymous"]  # W&B warns about the argument, whatever its value
    for key, value in _defaults(folder, os.environ.get("WANDB_JOB_TYPE", job), tags, run_id).items():
        if arguments.get(key) is None:
            arguments[key] = value
    if arguments["project"] == "lightning_logs":  # Lightning's default
        arguments["project"] = "lightning_ood"
    _check_project(str(arguments["project"]))
    if arguments.get("dir") in (None, "."):
        private.set_folder(logger, folder)
    private.sync_names(logger)
    private.skip_launcher()
    if os.environ.get("WANDB_LOG_MODEL", "false").lower() in ("true", "end", "checkpoint"):
        private.upload_models(logger)
    _begin(logger)
    return logger


def _check_project(name: str) -> None:
    if _NOT_IN_PROJECT.search(name) or len(name) > _PROJECT:
        raise InputError(
            f"WANDB_PROJECT (or `project` of the logger) is {name!r}: the name of a project has at most {_PROJECT} "
            "letters and none of / \\ # ? % :; write the team in WANDB_ENTITY and the project alone here"
        )


def _defaults(folder: Path, job: str, tags: Sequence[str], run_id: str | None) -> dict[str, Any]:
    import wandb

    ours = {
        "WANDB_RUN_ID": ("id", run_id),
        "WANDB_JOB_TYPE": ("job_type", job),
        "WANDB_TAGS": ("tags", [tag[:64] for tag in tags]),
        "WANDB_RUN_GROUP": ("group", folder.name),
        "WANDB_NAME": ("name", f"{folder.name}-{job}"),
    }
    if os.environ.get("WANDB_SWEEP_ID"):  # the sweep is the group and names its runs
        del ours["WANDB_RUN_GROUP"], ours["WANDB_NAME"]
    settings = wandb.Settings()
    for name, seconds in {"init_timeout": ANSWER_WITHIN, "finish_timeout": UPLOAD_WITHIN}.items():
        if f"WANDB_{name.upper()}" not in os.environ and hasattr(settings, name):  # older versions lack the second
            setattr(settings, name, seconds)
    given = {key: value for variable, (key, value) in ours.items() if variable not in os.environ}
    return {**given, "settings": settings}


def _begin(logger: WandbLogger) -> None:
    import wandb

    private.adopt_run(logger, wandb.run)  # fit's, if one command fits and tests
    mode = os.environ.get("WANDB_MODE") or private.init_arguments(logger).get("mode")
    if private.is_offline(logger) or mode in ("offline", "dryrun") or (mode != "disabled" and not has_key()):
        private.go_offline(logger)
    elif not private.has_run(logger):
        try:
            if mode != "disabled" and not reachable(server := wandb.setup().settings.base_url):
                raise ConnectionError(f"no answer from {server}")
            if url := getattr(logger.experiment, "url", None):
                rank_zero_print(f"W&B: {url}")
        except Exception as error:
            rank_zero_warn(f"W&B does not answer ({_first(error)}): this run is logged offline, for `wandb sync`")
            private.go_offline(logger)


def _first(error: Exception) -> str:
    """Returns the type and the first line of an error, without secrets."""
    return scrub(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


@contextmanager
def closing() -> Iterator[None]:
    """Ends the W&B run that a command began, with the command's exit code; an error in doing so is only a warning."""
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
    """Returns every resolved argument in plain values and the version of the code, with secrets blanked."""
    plain = json.loads(json.dumps(options, default=str))
    return {**without_secrets(plain), **code_version()}


def has_key() -> bool:
    """Returns True if a W&B key is configured, in WANDB_API_KEY or in the netrc file."""
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
