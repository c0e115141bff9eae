"""Errors that the person who typed the command can fix."""


class UserError(Exception):
    """A mistake that the user can fix: shown as one line, exit status 2."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
