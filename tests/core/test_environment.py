"""What is set before PyTorch is loaded."""

import getpass
import multiprocessing
import os
import pwd
import sys

import pytest

from core.environment import prepare_environment  # before OpenCV

import cv2  # isort: skip
import numpy as np  # isort: skip

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


def shrink(_=None):
    cv2.setNumThreads(1)  # as other libraries do when they are imported
    return cv2.resize(np.zeros((3000, 3000, 3), np.uint8), (100, 100)).shape


def test_opencv_works_in_a_process_forked_after_its_use():
    photo = np.zeros((4000, 4000, 3), np.uint8)
    cv2.GaussianBlur(photo, (0, 0), 3)  # would leave threads that a child waits for in vain
    pool = multiprocessing.get_context("fork").Pool(1)
    try:
        assert pool.map_async(shrink, [0]).get(timeout=60) == [(100, 100, 3)]
    finally:
        pool.terminate()
