"""The error that a user can mend."""


class InputError(Exception):
    """Something the user gave or has (a file, a setting, a disk) stops the work.

    The message is one line that names the thing, says what is wrong with it, and what to do. Verbs print it and exit
    with code 2; it never shows as a traceback.
    """
