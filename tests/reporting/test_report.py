import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score

import report
from core import figures, metrics
from core.errors import UserError
from core.folders import ROOT
from model import MaskClassifier
from prediction import tables
from prediction.model_file import save_model
from reporting import findings, run
from reporting.compare import short_names
from reporting.page import Section, thumbnail, write_page
from reporting.run import run_page
from training import log


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("answers.csv").write_text("ImageID,ans\na.jpg,0\nb.jpg,0\nc.jpg,17\nd.jpg,5\n")

    def write(*rows):
        Path("output.csv").write_text("\n".join(["ImageID,ans", *rows]) + "\n")

    write("d.jpg,5", "c.jpg,16", "b.jpg,0", "a.jpg,0")
    return write


def score(*argv):
    report.main(report.parse_args(["score", "output.csv", "answers.csv", *argv]))


def test_rows_are_matched_by_photo(files, capsys):
    score()
    out = capsys.readouterr().out
    assert "4 photos" in out and "macro-F1  0.5000" in out and "accuracy  0.7500" in out
    assert "mask    1.0000" in out and "gender  1.0000" in out and "age     0.7500" in out
    lines = {
        line.split()[0]: line.split()[-3:]
        for line in out.splitlines()
        if line[:3].strip().isdigit()
    }
    assert (
        len(lines) == 18
        and lines["0"] == ["2", "2", "1.0000"]
        and lines["16"] == ["0", "1", "0.0000"]
        and lines["1"] == ["0", "0", "-"]
    )


def test_the_scores_are_written_as_json(files):
    score("--json", "scores/score.json")
    told = json.loads(Path("scores/score.json").read_text())
    assert told["photos"] == 4 and told["macro_f1"] == 0.5 and told["age"] == 0.75
    assert (
        told["class_f1"]["wear male <30"] == 1
        and told["class_f1"]["wear male 30-59"] is None
        and len(told["class_f1"]) == 18
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a.jpg,0", "b.jpg,0"], "2 missing ('c.jpg', 'd.jpg')"),
        (
            ["a.jpg,0", "b.jpg,0", "c.jpg,0", "d.jpg,0", "a.jpg,1", "a.jpg,1"],
            "1 repeated ('a.jpg')",
        ),
        (
            ["a.jpg,0", "a.jpg,0", "x.jpg,0"],
            "3 missing ('b.jpg', 'c.jpg', 'd.jpg') and 1 repeated ('a.jpg') and 1 without a label",
        ),
    ],
)
def test_missing_and_repeated_photos_are_named_and_there_is_no_score(files, rows, said):
    files(*rows)
    with pytest.raises(UserError) as error:
        score()
    assert said in str(error.value) and "output.csv" in str(error.value)


def test_photos_without_a_label_are_named_and_not_scored(files, capsys):
    files("d.jpg,5", "c.jpg,17", "b.jpg,0", "a.jpg,0", *(f"x{number}.jpg,1" for number in range(5)))
    score()
    out = capsys.readouterr().out
    assert (
        "macro-F1  1.0000" in out
        and "not scored: 5 without a label ('x0.jpg', 'x1.jpg', 'x2.jpg' and 2 more)" in out
    )


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
    assert (
        failed.returncode == 2
        and failed.stdout == ""
        and failed.stderr.count("\n") == 1
        and "1 missing ('c.jpg')" in failed.stderr
    )


@pytest.mark.parametrize("argv", [["--help"], ["score", "--help"]])
def test_help_shows_examples_and_imports_nothing_heavy(argv):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "report.py"), *argv],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "examples:" in done.stdout and "numpy" not in done.stderr


# ---------------------------------------------------------------------------- pages


@pytest.fixture
def a_run(tmp_path, photos):
    """A run folder with the predictions for 40 photos of 10 people, whose names are Korean."""
    generator = np.random.default_rng(3)
    (tmp_path / "runs" / "swin").mkdir(parents=True)
    (tmp_path / "홍길동_male_Asian_30").mkdir()
    paths = [
        path.rename(tmp_path / "홍길동_male_Asian_30" / f"사진 {n}.png")
        for n, path in enumerate(photos(40, (32, 24)))
    ]
    probabilities = generator.dirichlet(np.ones(18) * 0.3, 40)
    frame = pd.DataFrame(
        {"person": [f"p{n // 4}" for n in range(40)], "path": list(map(str, paths))}
    )
    frame["label"] = generator.integers(0, 18, 40)
    tables.write_predictions(tmp_path / "runs" / "swin", frame, np.log(probabilities.clip(1e-9)))
    pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [2.0, 1.5],
            "macro_f1": [0.1, 0.2],
            "mask": [0.5, 0.6],
            "gender": [0.5, 0.6],
            "age": [0.5, 0.6],
        }
    ).to_csv(tmp_path / "runs" / "swin" / "metrics.csv", index=False)
    model = MaskClassifier(
        "test_efficientnet",
        "years",
        (64, 48),
        crop=[448, 336],
        bands=[30, 60],
        macro_f1=None,
        drawn=False,
    )
    save_model(model, tmp_path / "runs" / "swin" / "best.safetensors")
    return tmp_path / "runs" / "swin"


def test_the_page_on_a_run_shows_its_score_and_needs_no_other_file(a_run):
    assert report.main(report.parse_args(["run", "swin", "--model_dir", str(a_run.parent)])) == 0
    page = (a_run / "report" / "index.html").read_text(encoding="utf-8")
    table = pd.read_csv(a_run / "val_predictions.csv")
    assert f"{f1_score(table['label'], table['ans'], average='macro'):.4f}" in page
    assert f"{(table['label'] == table['ans']).mean():.1%}" in page and "사진 " in page
    sources = re.findall(r'(?:src|href)="([^"]{,40})', page)
    assert (
        all(source.startswith(("data:image/", "#s")) for source in sources)
        and 'name="viewport"' in page
    )
    charts, photos = page.count('src="data:image/png'), page.count('src="data:image/jpeg')
    pictures = sorted((a_run / "report").glob("*.png"))
    assert (
        photos == 10 and len(pictures) == charts + 1 >= 9
    )  # the contact sheet is a PNG, on the page it is a grid
    assert all(Image.open(picture).size[0] > 300 for picture in pictures)


@pytest.mark.parametrize("part", ["fold", "member"])
def test_the_parts_of_a_run_are_drawn_together(a_run, part):
    for number in range(2):
        folder = a_run / f"{part}-{number}"
        folder.mkdir()
        (folder / "metrics.csv").write_bytes((a_run / "metrics.csv").read_bytes())
    (a_run / "metrics.csv").unlink()
    page = run_page(a_run).read_text(encoding="utf-8")
    assert (
        "was 0.100 at the first validation and 0.200 at its best, in epoch 2 / 2 of 2. It was still"
        in page
    )


def test_a_page_replaces_a_report_and_no_other_page(tmp_path):
    for _ in range(2):
        page = write_page(tmp_path, "a", [Section("One")])
    assert "One" in page.read_text()
    page.write_text("<h1>my site</h1>")
    with pytest.raises(UserError, match="is not a report"):
        write_page(tmp_path, "a", [Section("One")])
    assert page.read_text() == "<h1>my site</h1>"


def test_sentences_say_where_a_run_is_wrong():
    labels, ans = np.array([0, 0, 1, 17]), np.array([0, 1, 1, 5])
    said = " ".join(findings.mistakes(labels, ans, metrics.per_class_f1(labels, ans)))
    assert (
        "2 of 4 photos are misclassified. Wrong attributes: mask in 1, age in 1, gender in 0."
        in said
    )
    assert findings.mistakes(labels, labels, metrics.per_class_f1(labels, labels)) == [
        "Every photo is classified correctly."
    ]
    assert "overconfident" in findings.calibration(
        np.full(4, 0.9), labels == ans
    ) and "well calibrated" in findings.calibration(np.full(4, 0.5), labels == ans)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.1, 0.3, 0.5], "still rising"),
        ([0.1, 0.5, 0.499], "had converged"),
        ([0.5, 0.4, 0.3], "did not help"),
        ([np.nan, 0.4, 0.5], "was 0.400 at the first validation"),
        ([np.nan, np.nan, 0.5], ""),
    ],
)
def test_a_sentence_says_whether_it_learned(scores, said):
    sentences = findings.learning([pd.DataFrame({"epoch": [1, 2, 3], "macro_f1": scores})])
    assert said in "".join(sentences) and len(sentences) == bool(said)


def test_names_are_whole_or_left_out_in_pictures_never_boxes(photos, monkeypatch):
    (path,) = photos(1)
    korean = path.rename(
        path.with_name(unicodedata.normalize("NFD", "홍길동$.png"))
    )  # as macOS stores it
    monkeypatch.setattr(figures, "KOREAN", None)
    assert "see page" in figures.contact_sheet([korean], ["is"]).axes[0].get_title(loc="left")
    monkeypatch.setattr(figures, "KOREAN", "a font")
    assert "홍길동$.png" in figures.contact_sheet([korean], ["is"]).axes[0].get_title(loc="left")


def test_a_thumbnail_of_a_photo_is_a_picture_and_of_a_broken_one_a_reason(photos, tmp_path):
    (path,) = photos(1)
    with Image.open(path) as photo:
        photo.convert("RGB").save(tmp_path / "photo.jpg")
    assert thumbnail(tmp_path / "photo.jpg")["data_uri"].startswith("data:image/jpeg;base64,")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:200])
    assert thumbnail(tmp_path / "photo.jpg").keys() == {"error"}


def test_mistakes_are_shown_most_confident_first_one_a_person(a_run, monkeypatch):
    shown = []

    def sheet(paths, captions):
        shown.extend(paths)
        return figures.plt.figure()

    monkeypatch.setattr(run, "contact_sheet", sheet)
    monkeypatch.setattr(run, "grad_cam", lambda *_: (None, ""))
    run_page(a_run, photos=5)
    table = pd.read_csv(a_run / "val_predictions.csv")
    table["confidence"] = [table[f"p{ans}"][row] for row, ans in enumerate(table["ans"])]
    wrong = (
        table[table["ans"] != table["label"]]
        .sort_values("confidence", ascending=False)
        .drop_duplicates("person")
    )
    assert shown == wrong["path"][:5].tolist()


def test_a_run_is_found_by_name_beside_another_folder_of_that_name(a_run, monkeypatch):
    (a_run.parent.parent / a_run.name).mkdir()
    monkeypatch.chdir(a_run.parent.parent)
    report.main(report.parse_args(["run", a_run.name, "--model_dir", str(a_run.parent)]))
    assert (a_run / "report" / "index.html").is_file()


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        run_page(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="val_ratio 0"):
        run_page(tmp_path)


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("ImageID,ans\nx.jpg,0\ny.jpg,1\nz.jpg,17\nw.jpg,4\n")
    Path("b.csv").write_text("ImageID,ans\nz.jpg,17\ny.jpg,2\nx.jpg,0\nw.jpg,4\n")
    Path("c.csv").write_text("ImageID,ans\nx.jpg,3\ny.jpg,2\nz.jpg,17\nw.jpg,1\n")
    Path("truth.csv").write_text("ImageID,ans\nx.jpg,0\ny.jpg,2\nz.jpg,17\nw.jpg,4\n")


def test_two_submissions_have_no_vote_and_the_pictures_of_an_earlier_page_are_gone(two, capsys):
    report.main(
        report.parse_args(
            ["compare", "a.csv", "b.csv", "c.csv", "--answers", "truth.csv", "--output", "out"]
        )
    )
    assert any("from-a-to-c" in path.name for path in Path("out").iterdir())
    Path("out/01-mine.png").touch()
    capsys.readouterr()
    report.main(
        report.parse_args(
            ["compare", "a.csv", "b.csv", "--answers", "truth.csv", "--output", "out"]
        )
    )
    assert (
        "vote" not in capsys.readouterr().out
        and "their vote" not in Path("out/index.html").read_text()
    )
    assert not any("from-a-to-c" in path.name for path in Path("out").iterdir())
    assert Path("out/01-mine.png").exists()


def test_submissions_are_compared_by_photo(two, capsys):
    report.main(
        report.parse_args(
            ["compare", "a.csv", "b.csv", "c.csv", "--answers", "truth.csv", "--output", "out"]
        )
    )
    out = capsys.readouterr().out
    assert "a and b agree on 75.0% of 4 photos" in out and "a and c agree on 25.0%" in out
    assert "a: macro-F1 0.6000, accuracy 0.7500" in out and "their vote: macro-F1 1.0000" in out
    assert "c scores" in out and "lower than a" in out and "may be chance" in out
    assert "On the 3 photos where they differ, a is right on 2, c on 1, neither on 0." in out
    page = Path("out/index.html").read_text()
    assert (
        "<td>worn male 30-59</td><td>b</td><td>worn male 60+</td>"
        + "".join(f'<td class="number">{n}</td>' for n in (1, 0, 1, 0))
        in page
    )
    assert (
        "<td>y.jpg</td><td>worn male 60+</td><td>worn male 30-59</td><td>worn male 60+</td>" in page
    )


def test_photos_that_differ_are_shown(two, photos, tmp_path):
    (tmp_path / "eval").mkdir()
    for path, name in zip(photos(4), "xyzw", strict=True):
        with Image.open(path) as photo:
            photo.save(tmp_path / "eval" / f"{name}.jpg")
    report.main(
        report.parse_args(["compare", "a.csv", "b.csv", "--data_dir", "eval", "--output", "out"])
    )
    assert any("disagree" in path.name for path in Path("out").glob("*.png"))
    page = Path("out/index.html").read_text()
    assert (
        page.count('src="data:image/jpeg') == 1
        and "<div>a: worn male 30-59</div>" in page
        and "<div>b: worn male 60+</div>" in page
        and "y.jpg</div>" in page
    )


def test_submissions_with_the_same_file_name_are_shown_with_their_folders(tmp_path):
    assert short_names(
        [tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv", tmp_path / "y.csv"]
    ) == ["a/x", "b/x", "y"]


def test_one_submission_or_other_photos_are_refused(two):
    with pytest.raises(UserError, match="two submissions"):
        report.main(report.parse_args(["compare", "a.csv"]))
    Path("d.csv").write_text("ImageID,ans\nv.jpg,0\n")
    with pytest.raises(UserError, match=r"d\.csv: its photos are not those of the rest"):
        report.main(report.parse_args(["compare", "a.csv", "d.csv"]))


def test_the_page_on_a_data_folder_counts_people_and_photos(tmp_path, photos, capsys):
    for number, age in enumerate((20, 35, 61)):
        folder = tmp_path / "train" / "images" / f"00{number}_female_Asian_{age}"
        folder.mkdir(parents=True)
        for path, stem in zip(photos(2), ("mask1", "normal"), strict=True):
            path.rename(folder / f"{stem}.png")
    report.main(
        report.parse_args(["data", str(tmp_path / "train"), "--output", str(tmp_path / "out")])
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert (
        "<td>people</td><td>3</td>" in page
        and "<td>photos</td><td>6</td>" in page
        and '<td>12 x 16</td><td class="number">6</td>' in page
    )
    assert len(list((tmp_path / "out").glob("*.png"))) == 3 + 6
    words = ["data", str(tmp_path / "train"), "--output", str(tmp_path / "out"), "--augmentation"]
    report.main(report.parse_args([*words, "clahe"]))
    assert "Augmentation: clahe" in (tmp_path / "out" / "index.html").read_text()
    assert len(list((tmp_path / "out").glob("*.png"))) == 3 + 6 + 1
    with pytest.raises(UserError, match="there is no 'clahee'"):
        report.main(report.parse_args([*words, "clahee"]))


class TensorBoard:
    """What TensorBoardLogger has of use here: an experiment that takes figures."""

    def __init__(self):
        self.shown, self.experiment = {}, self

    def add_figure(self, name, figure, epoch):
        self.shown[name] = [
            axis.get_title(loc=side) for axis in figure.axes for side in ("left", "center")
        ]


class Wandb(TensorBoard):
    def log_image(self, name, pictures, step):
        for picture in pictures:
            self.add_figure(name, picture, step)


@pytest.mark.parametrize("logger", [TensorBoard, Wandb])
def test_loggers_get_the_confusion_and_photos_with_labels_and_predictions(photos, logger):
    logger, paths = logger(), photos(2)
    frame = pd.DataFrame({"path": list(map(str, paths)), "label": [0, 17]})
    log.log_pictures(logger, frame, np.log(np.eye(18)[[0, 5]] * 0.82 + 0.01), 3)
    assert "epoch 3" in logger.shown["confusion"]
    assert (
        "1  photo0.png\nlabel: worn male <30\npredicted: worn male <30 (83%)"
        in logger.shown["photos"]
    )
    assert (
        "2  photo1.png\nlabel: not worn female 60+\npredicted: worn female 60+ (83%)"
        in logger.shown["photos"]
    )
