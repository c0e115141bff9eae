"""What PyTorch reads from the environment, set before it is imported."""

import getpass
import os
import sys
import tempfile

SPINS = "1000"


def prepare_environment() -> None:
    """Set what PyTorch, OpenCV and their libraries read once, when they are loaded.

    Variables that the user has set stay as they are.
    """
    # A process forked from one with OpenCV's threads (a loader worker) hangs when it uses OpenCV.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a read-only root, as in `docker run --read-only`
        tempfile.tempdir = "/dev/shm"
    if "torch" in sys.modules:
        return
    # OpenMP's idle threads look for work in a loop before they sleep, 300,000 times by libgomp's
    # default: two jobs on the same cores then take each other's time (docs/speed.md).
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in `docker run --user 12345`
        os.environ["USER"] = str(os.getuid())
        os.environ.setdefault("HOME", tempfile.gettempdir())


prepare_environment()
