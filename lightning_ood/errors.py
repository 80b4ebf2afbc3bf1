"""The one error a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used: a name, a key, a file, a set, a network.

    The message names what was given, what is wrong with it and what to write instead. The command line prints
    it without a traceback and exits with code 2.
    """
