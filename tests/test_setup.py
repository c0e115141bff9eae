"""The decisions of setup.sh, with stand-ins for python, nvidia-smi and uv on PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.folders import ROOT

SCRIPTS = ("setup.sh", "train.sh", "inference.sh", "test.sh")
TOOLS = ("sh", "sort", "head", "tr", "dirname", "rm", "mkdir", "cat", "cp", "chmod")

# A Python as set-up sees one: is it new enough, and with an argument not too new (`-c`), does it
# meet the requirements (`-`), can it make a venv and install?
PYTHON = """#!/bin/sh
here=$(dirname -- "$0")
case $1 in
    -c) [ $# -lt 3 ] || [ ! -e "$here/too_new-${0##*/}" ] || exit 1
        exit "$(cat "$here/too_old")" ;;
    -) cat >/dev/null; [ -e "$here/met" ] ;;
    -m) shift
        echo "python $* (PIP_USER=${PIP_USER:-})" >>"$LOG"
        case $1 in
            venv) mkdir -p "$2/bin" && cp "$0" "$2/bin/python" && echo 0 >"$2/bin/too_old" ;;
            pip) case $2 in install) [ ! -e "$FAIL" ] && : >"$here/met" ;; esac ;;
        esac ;;
    *) echo "ran $*" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
for last; do :; done
case $1 in
    venv)
        mkdir -p "$last/bin" && cp "$UV_PYTHON" "$last/bin/python"
        echo 0 >"$last/bin/too_old" ;;
esac
[ "$1" != pip ] || [ ! -e "$FAIL" ]
"""


class Machine:
    """A copy of the scripts beside a PATH of stand-ins."""

    def __init__(self, root):
        self.house, self.path, self.log = root / "the house", root / "bin", root / "log"
        self.house.mkdir()
        self.path.mkdir()
        for name in (*SCRIPTS, "requirements.txt", "requirements-test.txt"):
            shutil.copy(ROOT / name, self.house)
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool))
        self.venv, self.fail = self.house / ".venv", root / "fail"

    def put(self, name, content):
        (self.path / name).write_text(content)
        (self.path / name).chmod(0o755)

    def python(self, name="python3", met=False, too_old=False):
        self.put(name, PYTHON)
        (self.path / "too_old").write_text(str(int(too_old)))
        if met:
            (self.path / "met").touch()

    def gpus(self, *capabilities):
        self.put(
            "nvidia-smi",
            "#!/bin/sh\n" + "".join(f"echo {capability}\n" for capability in capabilities),
        )

    def run(self, script="inference.sh", *arguments, **variables):
        self.log.write_text("")
        environment = {
            "PATH": str(self.path),
            "LOG": str(self.log),
            "FAIL": str(self.fail),
            "HOME": str(self.house),
            "UV_PYTHON": str(self.path / "python3"),
            **variables,
        }
        return subprocess.run(
            ["sh", self.house / script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def installs(self):
        return [line for line in self.log.read_text().splitlines() if "pip install" in line]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("script", [*SCRIPTS, ".ci/run"])
def test_scripts_are_plain_sh(script):
    done = subprocess.run(["sh", "-n", ROOT / script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_checkout_made_on_windows_has_scripts_that_run(tmp_path):
    for name in ("train.sh", ".gitattributes"):
        shutil.copy(ROOT / name, tmp_path)
    git = ["git", "-C", tmp_path, "-c", "core.autocrlf=true"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "checkout-index", "-q", "--prefix=out/", "train.sh"], check=True)
    assert b"\r" not in (tmp_path / "out" / "train.sh").read_bytes()


VISION = {"2.7.1": "0.22.1", "2.10.0": "0.25.0", "2.12.1": "0.27.1"}


@pytest.mark.parametrize(
    ("capabilities", "torch"),
    [
        ([], "2.12.1"),
        (["7.0"], "2.7.1"),
        (["7.0, 580.65.06"], "2.7.1"),
        (["9.0, 580.65.06"], "2.12.1"),
        (["9.0, 535.183.01"], "2.10.0"),
        (["12.0, 570.86.10"], "2.10.0"),
        (["6.1"], "2.7.1"),
        (["7.5"], "2.12.1"),
        (["9.0"], "2.12.1"),
        (["12.0"], "2.12.1"),
        (["9.0", "7.0"], "2.7.1"),
        (["12.0", "9.0"], "2.12.1"),
        (["[N/A]"], "2.12.1"),
    ],
)
def test_the_pair_of_torch_suits_the_oldest_gpu(machine, capabilities, torch):
    machine.python()
    if capabilities:
        machine.gpus(*capabilities)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    (install,) = machine.installs()
    assert f"torch=={torch} " in install
    assert f"torchvision=={VISION[torch]}" in install
    assert not (machine.venv / "installing").exists()
    assert f"ran {machine.house}/inference.py" in done.stdout


def test_a_python_that_meets_everything_is_taken_as_it_is(machine):
    machine.python(met=True)
    done = machine.run("inference.sh", "--name", "a b")
    assert done.returncode == 0
    assert done.stdout == f"ran {machine.house}/inference.py --name a b\n"
    assert machine.log.read_text() == ""
    assert not machine.venv.exists()


def test_a_second_run_only_looks(machine):
    machine.python()
    machine.run()
    done = machine.run()
    assert done.returncode == 0
    assert machine.log.read_text() == ""
    assert "set-up" not in done.stdout


def test_a_venv_of_fewer_packages_is_added_to(machine):
    machine.python()
    machine.run()
    (machine.venv / "bin" / "met").unlink()
    (machine.venv / "mine").touch()
    assert machine.run().returncode == 0
    assert len(machine.installs()) == 1
    assert (machine.venv / "mine").exists()


@pytest.mark.parametrize("how", ["interrupted", "its Python is gone"])
def test_what_was_not_finished_is_made_anew(machine, how):
    machine.python()
    machine.run()
    (machine.venv / "left-over").touch()
    if how == "interrupted":
        (machine.venv / "installing").touch()
    else:
        (machine.venv / "bin" / "python").unlink()
        (machine.venv / "pyvenv.cfg").touch()
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "anew" in done.stdout
    assert not (machine.venv / "left-over").exists()
    assert "python -m" not in done.stderr
    assert any("venv" in line for line in machine.log.read_text().splitlines())


def test_a_folder_of_that_name_that_is_no_venv_is_left_alone(machine):
    machine.python()
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").touch()
    done = machine.run()
    assert done.returncode == 2
    assert "move it away" in done.stderr
    assert (machine.venv / "thesis.txt").exists()


def test_a_failed_installation_is_told_and_tried_again(machine):
    machine.python()
    machine.fail.touch()
    done = machine.run()
    assert done.returncode == 2
    assert "could not be installed" in done.stderr
    assert "ran" not in done.stdout
    assert (machine.venv / "installing").exists()
    machine.fail.unlink()
    assert machine.run().returncode == 0


@pytest.mark.parametrize("names", [(), ("python", "python3", "python3.11")])
def test_without_a_new_enough_python_it_ends_with_one_line(machine, names):
    for name in names:
        machine.python(name, met=True, too_old=True)
    done = machine.run()
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs Python 3.11" in done.stderr
    assert done.stdout == ""
    assert not machine.venv.exists()


def test_the_torch_of_an_old_gpu_gets_a_python_that_it_was_built_for(machine):
    machine.python("python")
    (machine.path / "too_new-python").touch()
    machine.gpus("7.0")
    done = machine.run()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "Python 3.11 to 3.13 for torch==2.7.1, found only newer ones (python)" in done.stderr
    machine.python("python3.12")
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "torch==2.7.1" in machine.installs()[0]


def test_uv_fetches_a_python_where_there_is_none(machine):
    machine.python("other")
    machine.put("uv", UV)
    assert machine.run(UV_PYTHON=str(machine.path / "other")).returncode == 0
    assert "venv --quiet --allow-existing --python 3.14" in machine.log.read_text()


def test_pip_installs_into_the_venv_though_it_is_set_to_user(machine):
    machine.python()
    assert machine.run(PIP_USER="1").returncode == 0
    assert machine.installs()[0].endswith("(PIP_USER=0)")


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(machine):
    machine.python()
    for folder in ("/proc/venv", "/dev/null/venv"):
        done = machine.run(VENV=folder)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert f"cannot write to {folder}" in done.stderr and "VENV=" in done.stderr
        assert done.stdout == ""
    assert machine.run(VENV=str(machine.house / "else where")).returncode == 0
    assert (machine.house / "else where" / "bin" / "python").exists()


def test_a_set_up_at_work_is_not_disturbed(machine):
    machine.python()
    machine.run()
    (machine.venv / "installing").write_text(f"{os.getpid()}\n")
    done = machine.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"process {os.getpid()} is installing" in done.stderr
    assert (machine.venv / "bin" / "python").exists()


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--model_dir", "s3://b/model"], {}),
        (["--model_dir=s3://b/model"], {}),
        ([], {"SM_CHANNEL_TRAIN": "s3://b/model"}),
    ],
)
def test_a_bucket_is_refused_before_anything_is_installed(machine, arguments, variables):
    machine.python()
    done = machine.run("train.sh", *arguments, **variables)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, "")
    assert "s3://b/model is not a folder" in done.stderr
    assert machine.log.read_text() == ""


def test_uv_installs_where_it_is(machine):
    machine.python()
    machine.put("uv", UV)
    done = machine.run("test.sh")
    lines = machine.log.read_text().splitlines()
    assert lines[0].startswith("uv venv")
    assert lines[1].startswith("uv pip install")
    assert f"{machine.house}/requirements-test.txt torch==2.12.1" in lines[1]
    assert "with uv" in done.stdout


def test_another_python_may_be_named(machine, tmp_path):
    machine.python(too_old=True)
    (tmp_path / "other").mkdir()
    shutil.copy(machine.path / "python3", tmp_path / "other" / "mine")
    (tmp_path / "other" / "too_old").write_text("0")
    (tmp_path / "other" / "met").touch()
    assert machine.run(PYTHON=str(tmp_path / "other" / "mine")).returncode == 0


@pytest.mark.parametrize(
    ("installed", "capability", "met"),
    [
        (("2.7.1", "0.22.1", "2.7.1"), "7.0", True),
        (("2.12.1", "0.27.1", "2.12.1"), "7.0", False),
        (("2.7.1", "0.22.1", "2.7.1"), "12.0", False),
        (("2.12.1", "0.27.1", "2.12.1"), "12.0", True),
        (("2.7.1", "0.22.1", "2.7.1"), "9.0", True),
        (("2.12.1+cpu", "0.27.1+cpu", "2.12.1"), None, True),
        (("2.6.0", "0.22.1", "2.6.0"), None, False),
        (("2.12.1", "0.22.1", "2.7.1"), None, False),
        (("2.7.1", None, None), None, False),
    ],
)
def test_a_real_python_is_asked_for_versions_the_gpu_and_the_pair(
    machine, tmp_path, installed, capability, met
):
    torch, torchvision, needs = installed
    for name, version, more in (
        ("torch", torch, ""),
        ("torchvision", torchvision, f"Requires-Dist: torch=={needs}\n"),
    ):
        if version:
            folder = tmp_path / "site" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
            )
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line.startswith("torch")
    ]
    (machine.house / "requirements.txt").write_text("\n".join(["# two of them", *lines]) + "\n")
    if capability:
        machine.gpus(capability)
    import packaging

    (tmp_path / "site" / "packaging").symlink_to(Path(packaging.__file__).parent)
    machine.put(
        "real",
        f'#!/bin/sh\nexport PYTHONPATH="{tmp_path}/site"\n'
        f"case $1 in *inference.py) echo taken ;; -m) exit 1 ;; "
        f'*) exec "{sys.executable}" -S "$@" ;; esac\n',
    )
    done = machine.run(PYTHON="real")
    assert ("taken" in done.stdout, "installing into" in done.stdout) == (met, not met), (
        done.stdout + done.stderr
    )


def test_the_scripts_find_what_lies_beside_them(machine):
    machine.python(met=True)
    machine.put("python3", PYTHON.replace("ran $*", "${PYTHONSAFEPATH-unset}"))
    assert machine.run("inference.sh", PYTHONSAFEPATH="1").stdout == "unset\n"


def test_train_draws_the_sample_only_without_data_of_ones_own(machine, tmp_path):
    if Path("/opt/ml/input/data/train").is_dir():
        pytest.fail("this machine has SageMaker's folder")
    machine.python(met=True)
    house = machine.house
    done = machine.run("train.sh", "--epochs", "1")
    assert done.stdout.splitlines() == [
        f"ran {house}/prepare.py sample sample",
        f"ran {house}/train.py --data_dir sample/train --recipe sample --epochs 1",
    ]
    for arguments in (["--data_dir", "x y"], ["--data_dir=x"], ["--help"], []):
        done = machine.run(
            "train.sh", *arguments, **({} if arguments else {"SM_CHANNEL_TRAIN": "/data"})
        )
        assert done.stdout == " ".join(["ran", f"{house}/train.py", *arguments]) + "\n"


@pytest.mark.parametrize(
    ("arguments", "variables", "processes"),
    [
        (["--devices", "4"], {}, 4),
        (["--devices=2"], {}, 2),
        ([], {"SM_NUM_GPUS": "8"}, 8),
        (["--devices", "1"], {"SM_NUM_GPUS": "8"}, None),
        ([], {"SM_NUM_GPUS": "0"}, None),
        (["--devices", "x"], {}, None),
    ],
)
def test_several_devices_are_started_by_torchrun(machine, arguments, variables, processes):
    machine.python(met=True)
    done = machine.run("train.sh", *arguments, SM_CHANNEL_TRAIN="/data", **variables)
    assert done.returncode == 0
    ranks = f"ran -P {machine.house}/core/launch.py --standalone --nproc_per_node={processes}"
    assert (f"{ranks} {machine.house}/train.py" in done.stdout) == bool(processes)
    assert (f"ran {machine.house}/train.py" in done.stdout) == (not processes)
