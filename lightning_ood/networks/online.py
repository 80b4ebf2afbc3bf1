"""Finds out in seconds whether weights can be downloaded; the libraries' own retries take up to a minute."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

_SECONDS = 4.0


def reachable(url: str, seconds: float = _SECONDS) -> bool:
    """Returns whether the server of a URL answers, through the proxies that the environment names.

    Any answer counts, an error page too: what it means is the download's to say. The question runs in a thread because
    the look-up of a host name has no time limit of its own.
    """
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


@contextmanager
def hub(remote: bool = True) -> Iterator[None]:
    """Makes the Hugging Face hub read from its cache only where its server cannot be reached.

    Args:
        remote: whether the hub will be asked at all.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (remote and not reachable(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
