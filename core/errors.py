"""Errors that the person who typed the command can fix."""


class UserError(Exception):
    """Something the person who typed the command can put right: shown as one line, exit status 2."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
