"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input: a file, key or value that couplet cannot work with.

    The message is one line that names the file or key, the value and what is allowed.
    The command line prints it to stderr and exits with code 2; nothing else does.
    """
