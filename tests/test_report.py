import json
import subprocess
import sys
from pathlib import Path

import pytest

import report
from cli import ROOT, UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("answers.csv").write_text("ImageID,ans\na.jpg,0\nb.jpg,0\nc.jpg,17\nd.jpg,5\n")

    def write(*rows):
        Path("output.csv").write_text("\n".join(["ImageID,ans", *rows]) + "\n")

    write("d.jpg,5", "c.jpg,16", "b.jpg,0", "a.jpg,0")
    return write


def score(*argv):
    report.score(report.parse_args(["score", "output.csv", "answers.csv", *argv]))


def test_rows_are_matched_by_photo(files, capsys):
    score()
    out = capsys.readouterr().out
    assert "4 photos" in out and "macro-F1  0.5000" in out and "accuracy  0.7500" in out
    assert "mask    1.0000" in out and "gender  1.0000" in out and "age     0.7500" in out
    lines = {line.split()[0]: line.split()[-3:] for line in out.splitlines() if line[:3].strip().isdigit()}
    assert len(lines) == 18 and lines["0"] == ["2", "2", "1.0000"] and lines["16"] == ["0", "1", "0.0000"] and lines["1"] == ["0", "0", "-"]


def test_the_scores_are_written_as_json(files):
    score("--json", "scores/score.json")
    told = json.loads(Path("scores/score.json").read_text())
    assert told["photos"] == 4 and told["macro_f1"] == 0.5 and told["age"] == 0.75
    assert told["class_f1"]["wear male <30"] == 1 and told["class_f1"]["wear male 30-59"] is None and len(told["class_f1"]) == 18


@pytest.mark.parametrize(("rows", "said"), [
    (["a.jpg,0", "b.jpg,0"], "2 missing ('c.jpg', 'd.jpg')"),
    (["a.jpg,0", "b.jpg,0", "c.jpg,0", "d.jpg,0", "a.jpg,1", "a.jpg,1"], "1 repeated ('a.jpg')"),
    (["a.jpg,0", "a.jpg,0", "x.jpg,0"], "3 missing ('b.jpg', 'c.jpg', 'd.jpg') and 1 repeated ('a.jpg') and 1 unknown"),
])
def test_missing_and_repeated_photos_are_named_and_there_is_no_score(files, rows, said):
    files(*rows)
    with pytest.raises(UserError) as error:
        score()
    assert said in str(error.value) and "output.csv" in str(error.value)


def test_photos_without_an_answer_key_are_named_and_not_scored(files, capsys):
    files("d.jpg,5", "c.jpg,17", "b.jpg,0", "a.jpg,0", *(f"x{number}.jpg,1" for number in range(5)))
    score()
    out = capsys.readouterr().out
    assert "macro-F1  1.0000" in out and "not scored: 5 unknown to the answers ('x0.jpg', 'x1.jpg', 'x2.jpg' and 2 more)" in out


@pytest.mark.parametrize("path", ["output.csv", "answers.csv", "output.json"])
def test_the_files_of_a_submission_are_not_written_over(files, path):
    before = Path("output.csv").read_bytes()
    with pytest.raises(UserError, match="belongs to one of the CSVs"):
        score("--json", path)
    assert Path("output.csv").read_bytes() == before and not Path("output.json").exists()


def test_the_command_ends_with_2_and_one_line(files):
    def command():
        argv = [sys.executable, str(ROOT / "report.py"), "score", "output.csv", "answers.csv"]
        return subprocess.run(argv, capture_output=True, text=True)

    assert command().returncode == 0
    files("a.jpg,0", "b.jpg,0", "d.jpg,0")
    failed = command()
    assert failed.returncode == 2 and failed.stdout == "" and failed.stderr.count("\n") == 1 and "1 missing ('c.jpg')" in failed.stderr


@pytest.mark.parametrize("argv", [["--help"], ["score", "--help"]])
def test_help_shows_examples_and_imports_nothing_heavy(argv):
    done = subprocess.run([sys.executable, "-X", "importtime", str(ROOT / "report.py"), *argv], capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout and "numpy" not in done.stderr
