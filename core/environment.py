"""What PyTorch reads from the environment, set before it is imported."""

import getpass
import os
import sys
import tempfile


def prepare_environment() -> None:
    """Set what PyTorch and its libraries read once, when they are loaded; later this does nothing.

    Variables that the user has set stay as they are.
    """
    if "torch" in sys.modules:
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in `docker run --user 12345`
        os.environ["USER"] = str(os.getuid())
        os.environ.setdefault("HOME", tempfile.gettempdir())


prepare_environment()
