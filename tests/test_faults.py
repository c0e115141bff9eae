"""The benchmarks run, in their shortest form."""

import subprocess
import sys

from cli import ROOT


def test_a_run_killed_again_and_again_ends_as_one_left_alone():
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--kills", "3", "--epochs", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tensors equal bit for bit: 93 of 93" in done.stdout
