"""One run's folder."""

import subprocess
import sys

import pytest

from core.errors import UserError
from core.folders import ROOT
from training import run_folder

HOLD = """
import sys, time
from pathlib import Path
from training import run_folder
run_folder.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def test_without_git_the_revision_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_folder.revision() == "unknown"


def test_a_run_is_trained_by_one_process_until_that_ends_however_it_does(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training"):
            run_folder.hold(tmp_path)
        assert "waiting for it to end" in capsys.readouterr().out
        other.kill()
    run_folder.hold(tmp_path)


def test_a_run_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be written to"):
        run_folder.hold(tmp_path)
