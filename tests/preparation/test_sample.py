import hashlib

import pandas as pd
import pytest

import dataset
import prepare
from core import labels
from core.errors import UserError
from core.folders import DRAWN_MARK
from core.people import parse_person, read_people
from preparation import sample

SMALL = ["--people", "16", "--eval_people", "2", "--size", "24", "32"]


def draw(out, *flags):
    small = SMALL if "--size" not in flags else SMALL[:4]
    args = prepare.parse_args(["sample", str(out), *small, *flags])
    return getattr(prepare, args.command)(args)


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "sample"
    assert draw(out, "--processes", "1") == 0
    return out


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(drawn, tmp_path):
    draw(tmp_path / "again", "--processes", "2")
    assert content(tmp_path / "again") == content(drawn)


def test_another_seed_gives_other_photos(drawn, tmp_path):
    draw(tmp_path / "other", "--seed", "1")
    photos = {
        digest for name, digest in content(drawn).items() if "mask" in name and "._" not in name
    }
    assert len(photos) > 90
    assert not photos & set(content(tmp_path / "other").values())


def test_every_trap_of_the_real_folders_is_there(drawn):
    frame = dataset.read_train(drawn / "train")
    people = frame.drop_duplicates("person")
    extensions = {path.rsplit(".", 1)[1] for path in frame["path"]}
    assert {"jpg", "JPG", "jpeg", "png", "PNG"} == extensions
    assert people["id"].str.contains("-").any()
    assert people["id"].duplicated().any(), "one id of two people"
    assert people["race"].str.contains(" ").any()
    assert frame.groupby("person").size().value_counts().to_dict() == {7: 15, 5: 1}
    names = {path.name for path in drawn.rglob("*")}
    assert {"._mask1.jpg", ".DS_Store", "Thumbs.db"} <= names
    assert {28, 29, 30, 58, 59, 60} <= set(sample.AGES)


def test_csv_and_names_of_the_drawn_folders_agree(drawn):
    from_csv = read_people(drawn / "train")
    from_names = pd.DataFrame([parse_person(name) for name in from_csv["person"]])
    assert len(from_csv) == 16
    pd.testing.assert_frame_equal(from_csv.drop(columns="folder"), from_names)


def test_photos_to_answer_do_not_tell_their_label(drawn):
    asked, answers = (pd.read_csv(drawn / path) for path in ("eval/info.csv", "eval_answers.csv"))
    assert (
        asked["ImageID"].tolist()
        == answers["ImageID"].tolist()
        == dataset.read_eval(drawn / "eval")["ImageID"].tolist()
    )
    assert set(asked["ans"]) == {0}
    assert asked["ImageID"].tolist() != sorted(asked["ImageID"])
    assert not answers["ans"].is_monotonic_increasing
    assert len(answers) == 14


def test_the_answers_agree_with_encode(drawn):
    answers = pd.read_csv(drawn / "eval_answers.csv").set_index("ImageID")["ans"]
    for person in sample.make_people(2, 0, 1):
        stems = [
            hashlib.sha1(repr((*person.seed, index)).encode()).hexdigest() for index in range(7)
        ]
        told = [answers[answers.index.str.startswith(stem)].item() for stem in stems]
        assert told == [
            labels.encode(mask, person.gender, person.age) for mask in (0, 0, 0, 0, 0, 1, 2)
        ]


def test_the_sizes_are_as_asked(drawn):
    from PIL import Image

    frame = dataset.read_train(drawn / "train")
    assert {Image.open(path).size for path in frame["path"]} == {(24, 32)}


@pytest.mark.parametrize("flag", ["people", "eval_people"])
def test_all_18_classes_are_in_both_parts_by_default(flag):
    args = prepare.parse_args(["sample", "somewhere"])
    part = ("people", "eval_people").index(flag)
    for seed in range(20):
        people = sample.make_people(getattr(args, flag), seed, part)
        assert len({(person.gender, int(labels.age_band(person.age))) for person in people}) == 6
        assert len({person.folder for person in people}) == len(people)


def test_train_and_eval_share_nobody():
    train, evaluation = (sample.make_people(160, 0, part) for part in (0, 1))
    assert not {person.id for person in train} & {person.id for person in evaluation}
    assert not {person.seed for person in train} & {person.seed for person in evaluation}


def test_an_interrupted_drawing_leaves_nothing_under_the_final_name(tmp_path):
    def stopped(people):
        next(people)
        raise KeyboardInterrupt
        yield

    out = tmp_path / "sample"
    with pytest.raises(KeyboardInterrupt):
        sample.draw_sample(out, 4, 1, 0, (32, 24), 1, stopped)
    assert not out.exists()
    sample.draw_sample(out, 4, 1, 0, (32, 24), 1, iter)
    assert (out / DRAWN_MARK).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_set_that_is_there_is_left_alone(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw(drawn) == 0
    assert "exists already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_other_things_under_the_name_are_not_touched(drawn, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(UserError, match="exists already and is not this sample set"):
            draw(tmp_path / name)
    with pytest.raises(UserError, match="exists already"):
        draw(drawn, "--seed", "2")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "flags", ["--people 0", "--eval_people -1", "--processes 0", "--size 8 8", "--seed -1"]
)
def test_numbers_that_cannot_be_are_told(tmp_path, flags):
    with pytest.raises(UserError):
        draw(tmp_path / "x", *flags.split())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        draw(tmp_path / "file" / "sample")
