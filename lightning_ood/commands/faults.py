"""One boundary: errors of the machine and of other libraries' input checks become a sentence, bugs stay tracebacks."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator

from lightning_ood.errors import InputError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere (--trainer.default_root_dir, or --output). "
    "Files that were written whole are kept",
    errno.EDQUOT: "your quota of the disk is used up: free some space, or write elsewhere (--trainer.default_root_dir)",
    errno.EROFS: "this file system is read-only: write elsewhere (--trainer.default_root_dir, or --output)",
    errno.EACCES: "this user may not read or write it: change its permissions, or name another place",
    errno.EPERM: "this user may not read or write it: change its permissions, or name another place",
    errno.ENOTDIR: "a part of this path is a file where a folder has to be: name another place",
    errno.EISDIR: "this is a folder where a file has to be: name another path",
    errno.EEXIST: "there is a file where a folder has to be: name another place",
    errno.ENOENT: "there is no such file or folder: correct the path",
    errno.ENAMETOOLONG: "this name is longer than the file system allows: write a shorter one",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n 65536), or lower --data.num_workers",
    errno.ENOMEM: "the memory is used up: lower --data.batch_size or --data.num_workers",
    errno.EADDRINUSE: "the port of the processes is taken: name another one in MASTER_PORT",
}
_SEED = re.compile(r"-?\d+ is not in bounds, numpy accepts|Invalid seed specified via PL_GLOBAL_SEED")
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (.*)")
_SHARED = "a process that loads images found no room in /dev/shm: give --data.num_workers 0, or a larger /dev/shm"
_SHARED += " (docker run --shm-size 8g)"
_NO_SHARED_MEMORY = ("unable to open shared memory", "unable to mmap", "unable to allocate shared memory")
_KILLED = "a process that loads images was ended from outside, most often for its memory: lower --data.num_workers"
_KILLED += " or --data.batch_size"
_OF_ARGUMENTS = (ArithmeticError, ImportError, RuntimeError, TypeError, ValueError)
_MEMORY = "the memory is used up: lower --data.batch_size, or the size of banks (bank_size) of detectors"


def sentence(error: BaseException) -> str | None:
    """Says what went wrong, where, and what to do, if the error is one of the input or the machine.

    Args:
        error: what a command raised; errors that it was raised from are looked at too.

    Returns:
        None where it may be a bug, whose traceback has to be seen.
    """
    chain = list(_chain(error))
    for each in chain:  # the outermost says where
        if isinstance(each, InputError):
            return str(each)
    return next((said for said in map(_of_one, reversed(chain)) if said), None)  # the innermost knows the file


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)


def _raised_in(error: BaseException) -> str:
    """Returns the name of the module whose code raised the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def _of_one(error: BaseException) -> str | None:
    name, text = type(error).__name__, str(error).strip()
    if isinstance(error, OSError) and error.errno in _ADVICE:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{_ADVICE[error.errno]}"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return _MEMORY
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return f"a config, or another file of text, is no UTF-8 ({text}): write it again (--debug says where)"
    if isinstance(error, ValueError) and _SEED.search(text):
        return f"seed_everything: {text}: write a number from 0 to 4294967295"
    if name == "InvalidBackend":  # of torch.compile
        return f"model.reading.compile: {text}: write inductor or another backend, or null"
    if name == "MisconfigurationException":  # Lightning's check of what the trainer is given
        return f"the trainer cannot be made: {' '.join(text.split())}"
    if _raised_in(error).startswith(("yaml.", "jsonargparse.")):  # which raise whatever a value leads them to
        return f"a config or an argument cannot be read ({name}: {text}): correct it (--debug says where)"
    if isinstance(error, _OF_ARGUMENTS) and _raised_in(error).startswith("lightning."):  # it checks few arguments
        first = text.partition("\n")[0]
        return f"Lightning cannot go on with these arguments of the trainer: {name}: {first} (--debug says where)"
    if isinstance(error, RuntimeError):
        if (worker := _WORKER.search(text)) is not None:
            return _SHARED if "Bus error" in text or "shared memory" in text else f"{_KILLED} ({worker[1].strip()})"
        if any(words in text for words in _NO_SHARED_MEMORY):
            return _SHARED
        if "EADDRINUSE" in text:  # of torch.distributed, which makes one of its own
            return _ADVICE[errno.EADDRINUSE]
        if "PytorchStreamWriter failed" in text or "No space left on device" in text:
            return _ADVICE[errno.ENOSPC]
    return None
