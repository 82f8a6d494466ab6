"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input: a file, key or value that couplet cannot work with.

    The message is one line that names the file or key, the value and what is allowed.
    The command line prints it to stderr and exits with code 2; nothing else does.
    """


class Stopped(Exception):
    """A signal ended a training after a whole step; its state is saved and the same command goes on.

    The command line prints the message to stderr and exits with code 75, EX_TEMPFAIL of sysexits.h: not a
    mistake, try again.
    """
