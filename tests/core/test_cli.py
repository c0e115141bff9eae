import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import cli, files, folders, processes
from core.errors import UserError
from core.files import atomic
from core.folders import data_folder, safe_name

# ----------------------------------------------------------------- files that are whole or absent


def test_atomic_writes_under_the_final_name_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / ("가" * 83 + ".csv")  # as long as a name may be
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_leaves_nothing_on_failure_and_keeps_the_old(tmp_path, error):
    path = tmp_path / "a.csv"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(error), atomic(path) as temporary:
            temporary.write_text("half")
            raise error
        assert [file.name for file in tmp_path.iterdir()] == (["a.csv"] if old else [])
    assert path.read_text() == "old"


def test_what_the_disk_refuses_is_told_with_the_file(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"a\.csv: cannot be written"),
        atomic(tmp_path / "file" / "a.csv"),
    ):
        pass
    with (
        pytest.raises(UserError, match="No space left"),
        atomic(tmp_path / "a.csv"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x" * 100_000)
    assert not (tmp_path / "a.csv").exists()


def test_atomic_gives_the_rights_of_an_ordinary_file(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic(tmp_path / "a"):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_json_is_read_back_as_written(tmp_path):
    content = {"name": "é", "numbers": [1, 0.5, None], "deep": {"a": True}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_told_in_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json") as error:
        files.read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="gone"):
        files.read_json(tmp_path / "gone")


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["swin", "swin-2", "a.b_c", "swin5/fold-0", "얼굴", "..a"])
def test_names_of_runs_are_taken(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc",
        "a/../b",
        "../a",
        "a//b",
        "a/",
        "./a",
        "-rf",
        "a/-rf",
        "a\\b",
        "a\0b",
        "x" * 201,
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(UserError, match="--name"):
        safe_name(name)


@given(st.text(st.sampled_from("ab./\\-\0 "), max_size=12))
def test_a_safe_name_stays_inside(name):
    try:
        inside = (Path("/model") / safe_name(name)).resolve()
    except UserError:
        return
    assert Path("/model") in inside.parents


# ---------------------------------------------------------------------------------------- folders


def test_the_folder_of_photos_flag_variable_sagemaker_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "SAGEMAKER", tmp_path / "opt")
    with pytest.raises(UserError, match="SM_CHANNEL_TRAIN"):
        data_folder(None, "train")
    for folder in ("sample/train", "opt/train", "channel", "flag"):
        (tmp_path / folder).mkdir(parents=True)
        if folder == "channel":
            monkeypatch.setenv("SM_CHANNEL_TRAIN", str(tmp_path / "channel"))
        path, source = data_folder("flag" if folder == "flag" else None, "train")
        assert path.resolve() == tmp_path / folder
        assert (
            source
            == {
                "sample/train": "the sample set, because SM_CHANNEL_TRAIN is not set",
                "opt/train": "SageMaker's folder",
                "channel": "SM_CHANNEL_TRAIN",
                "flag": "--data_dir",
            }[folder]
        )
    with pytest.raises(UserError, match="SM_CHANNEL_EVAL"):
        data_folder(None, "eval")


@pytest.mark.parametrize(("path", "told"), [("gone", "does not exist"), ("file", "is a file")])
def test_a_folder_that_is_none_names_where_it_came_from(tmp_path, monkeypatch, path, told):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--data_dir.*{told}"):
        data_folder(str(tmp_path / path), "train")
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(tmp_path / path))
    with pytest.raises(UserError, match=f"SM_CHANNEL_TRAIN.*{told}"):
        data_folder(None, "train")


def test_the_first_of_flag_variables_and_default(monkeypatch):
    assert folders.folder(None, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model") == Path(
        "model"
    )
    monkeypatch.setenv("SM_MODEL_DIR", "/b")
    assert folders.folder(None, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model") == Path("/b")
    monkeypatch.setenv("SM_CHANNEL_MODEL", "/a")
    assert folders.folder(None, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model") == Path("/a")
    assert folders.folder("~/c", "SM_CHANNEL_MODEL", default="model") == Path.home() / "c"


def test_a_drawn_set_is_known_by_its_mark(tmp_path, monkeypatch):
    (tmp_path / "sample/train/images/someone").mkdir(parents=True)
    (tmp_path / "other/train").mkdir(parents=True)
    (tmp_path / "sample" / folders.DRAWN_MARK).touch()
    for path in ("sample", "sample/train", "sample/train/images"):
        assert folders.is_drawn(tmp_path / path)
    assert not folders.is_drawn(tmp_path / "other/train")
    monkeypatch.chdir(tmp_path / "sample/train")
    assert folders.is_drawn(Path("images"))


# ---------------------------------------------------------------------------- the end of a script


def ended(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/some/where/train.py"])
    with pytest.raises(SystemExit) as error:
        cli.run(main, None)
    return error.value.code, capsys.readouterr().err


def test_a_user_error_is_one_line_and_status_2(monkeypatch, capsys):
    def main(args):
        raise UserError("no photos")

    assert ended(main, monkeypatch, capsys) == (2, "train.py: no photos\n")


def test_ctrl_c_and_success_and_a_status(monkeypatch, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    code, told = ended(stopped, monkeypatch, capsys)
    assert code == 130
    assert "Traceback" not in told
    assert ended(lambda args: None, monkeypatch, capsys) == (0, "")
    assert ended(lambda args: 3, monkeypatch, capsys)[0] == 3


def test_figures_do_not_need_the_backend_of_a_notebook(monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    assert ended(lambda args: os.environ["MPLBACKEND"] != "agg", monkeypatch, capsys)[0] == 0


def test_what_the_machine_refuses_is_one_line(monkeypatch, capsys):
    def refused(args):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/log")

    told = "train.py: /data/log: No space left on device\n"
    assert ended(refused, monkeypatch, capsys) == (2, told)


def test_other_errors_are_not_swallowed():
    def main(args):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(main, None)


def test_cores_are_those_this_process_may_use():
    assert 1 <= processes.cores() <= os.cpu_count()
    assert json.dumps(processes.cores())


@pytest.mark.parametrize(
    "command",
    [
        ["report.py", "score", "a.csv", "b.csv"],
        ["ensemble.py", "vote", "a.csv", "b.csv"],
        ["train.py"],
    ],
)
def test_a_python_without_the_packages_is_told_in_one_line(command):
    code = "import sys, runpy; sys.modules['pandas'] = None; sys.argv = sys.argv[1:]; "
    code += f"sys.path.insert(0, {str(folders.ROOT)!r}); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [sys.executable, "-c", code, str(folders.ROOT / command[0]), *command[1:]]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "has no pandas; " in done.stderr
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--any", "1", "2", "--any", "3", "4"], "--any is given twice"),
        (["--some", "1", "--one", "2", "--some", "3"], None),
        (["--one", "s3://bucket/model"], "not a path on this machine"),
        (["--one=S3://bucket"], "not a path on this machine"),
        (["--", "--one", "--one"], None),
        (["--one", ""], "--one: its value is empty"),
        (["--one="], "--one: its value is empty"),
        (["--one-more=1"], "unrecognized arguments: --one-more=1 (did you mean --one_more?)"),
    ],
)
def test_nothing_given_on_a_command_line_is_ignored(words, said, monkeypatch, capsys):
    parser = cli.ArgumentParser(prog="x.py")
    parser.add_argument("--one")
    parser.add_argument("--one_more")
    parser.add_argument("--any", nargs="*")
    parser.add_argument("--some", action="extend", nargs="+")
    parser.add_argument("rest", nargs="*")
    monkeypatch.setattr(sys, "argv", ["x.py", *words])
    if said is None:
        parser.parse_args()
        return
    with pytest.raises(SystemExit) as stop:
        parser.parse_args()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words", ("--one 1 --two 3 4 --one 2 --two 5 6", "--one=1 --two 3 4 --one=2 --two 5 6")
)
def test_of_a_value_given_twice_the_last_counts_and_that_is_said(words, monkeypatch, capsys):
    cli.warn_once.cache_clear()
    parser = cli.ArgumentParser(prog="x.py")
    parser.add_argument("--one")
    parser.add_argument("--two", nargs=2)
    monkeypatch.setattr(sys, "argv", ["x.py", *words.split()])
    args = parser.parse_args()
    assert args.one == "2" and args.two == ["5", "6"]
    assert capsys.readouterr().err.splitlines() == [
        "warning: --one is given twice: 2 counts, 1 does not",
        "warning: --two is given twice: 5 6 counts, 3 4 does not",
    ]


def test_home_and_file_addresses_are_paths_though_no_shell_made_them_so(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = cli.ArgumentParser(prog="x.py")
    parser.add_argument("--one")
    parser.add_argument("rest", nargs="*")
    given = parser.parse_args(["--one=~/a", "~/b.jpg", "file:///c d.jpg", "a~", "~nobody.at.all/a"])
    assert given.one == "/home/me/a"
    assert given.rest == ["/home/me/b.jpg", "/c d.jpg", "a~", "~nobody.at.all/a"]


def test_an_address_in_a_variable_is_no_folder(monkeypatch):
    monkeypatch.setenv("SM_MODEL_DIR", "s3://bucket/model")
    with pytest.raises(UserError, match="not a folder on this machine"):
        folders.folder(None, "SM_MODEL_DIR", default="model")
