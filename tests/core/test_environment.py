"""What is set before PyTorch is loaded."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile

import pytest

from core.environment import SPINS, prepare_environment
from core.folders import ROOT

NAMES = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")


@pytest.fixture
def before_torch(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "torch"})


def test_a_user_id_without_a_name_gets_one(before_torch, monkeypatch):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in NAMES:
        os.environ.pop(name, None)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    prepare_environment()
    assert getpass.getuser() == str(os.getuid())
    assert os.path.isdir(os.environ["HOME"])  # noqa: PTH112


def test_what_the_user_has_set_stays(before_torch):
    os.environ.update(USER="me", HOME="/home/me")
    before = dict(os.environ)
    prepare_environment()
    assert {name: os.environ.get(name) for name in NAMES} == {n: before.get(n) for n in NAMES}


def test_temporary_files_have_a_place_on_a_read_only_root(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    prepare_environment()
    assert tempfile.gettempdir() == "/dev/shm"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_idle_threads_sleep_soon_unless_the_user_says_otherwise(before_torch, name):
    for variable in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        os.environ.pop(variable, None)
    os.environ[name] = "of the user"
    prepare_environment()
    assert {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ) == {name}
    assert os.environ.pop(name) == "of the user"
    prepare_environment()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


def test_opencv_has_no_threads_that_a_forked_process_would_wait_for():
    """A child that changes their number, as some libraries do, hangs in one start of a few."""
    command = "import core, cv2; print(cv2.getNumThreads())"
    environ = {k: v for k, v in os.environ.items() if k != "OPENCV_FOR_THREADS_NUM"}
    arguments = {"env": environ, "cwd": ROOT, "capture_output": True, "text": True}
    assert subprocess.run([sys.executable, "-c", command], **arguments).stdout == "1\n"
