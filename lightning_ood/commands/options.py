"""The parser of the commands that need no Lightning: errors in one line, with near names."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import NoReturn

from lightning_ood.commands.messages import near_option
from lightning_ood.errors import InputError


class OptionParser(ArgumentParser):
    """Raises what is wrong with the options as an InputError, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        names = [name.lstrip("-") for action in self._actions for name in action.option_strings]
        first = message.partition("unrecognized arguments: ")[2].split()
        if first and first[0].startswith("--"):
            raise InputError(near_option(first[0], names))
        raise InputError(f"{message}; {self.prog} --help lists what it takes")
