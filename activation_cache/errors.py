"""The one exception for input that a user can mend."""


class InputError(ValueError):
    """What was given cannot be used: the message names the thing, its value and the remedy.

    Scripts print the message as one line and exit with code 2; every other exception is a bug.
    """
