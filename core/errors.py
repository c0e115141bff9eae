"""Errors that the person who typed the command can fix, and words for messages."""


class UserError(Exception):
    """A mistake that the user can fix: shown as one line, exit status 2."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: (1, "photo") -> "1 photo", (2000, "photo") -> "2,000 photos"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
