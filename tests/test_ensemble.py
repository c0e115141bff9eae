import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import ensemble
from core.errors import UserError
from core.folders import ROOT
from core.labels import CLASSES, decode
from prediction import submission, voting

classes = st.integers(0, CLASSES - 1)
answers = st.tuples(st.integers(1, 6), st.integers(1, 20)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=classes)
)
counting_methods = st.sampled_from(["hard", "attribute", "weighted"])


def one_hot(ans):
    return np.eye(CLASSES, dtype=np.float32)[ans]


# ---------------------------------------------------------------------------- votes


@given(answers, counting_methods, st.randoms())
def test_the_order_of_the_photos_does_not_matter(ans, method, random):
    order = random.sample(range(ans.shape[1]), ans.shape[1])
    weights = np.linspace(0.8, 0.7, len(ans))
    assert np.array_equal(
        voting.cast_votes(method, ans, weights)[order],
        voting.cast_votes(method, ans[:, order], weights),
    )


@given(answers, counting_methods)
def test_a_unanimous_vote_is_the_members_answer(ans, method):
    same = np.repeat(ans[:1], 3, axis=0)
    assert np.array_equal(voting.cast_votes(method, same, [0.5, 0.6, 0.7]), ans[0])
    assert np.array_equal(voting.cast_votes("soft", same, probabilities=map(one_hot, same)), ans[0])


@given(answers, counting_methods)
def test_a_vote_of_one_or_two_is_the_best_member(ans, method):
    for few in (ans[:1], ans[:2]):
        assert np.array_equal(voting.cast_votes(method, few, np.ones(len(few))), ans[0])


@given(answers)
def test_a_hard_vote_counts_as_by_hand(ans):
    for photo, voted in zip(ans.T.tolist(), voting.cast_votes("hard", ans), strict=True):
        most = max(map(photo.count, photo))
        assert voted == next(
            answer for answer in photo if photo.count(answer) == most
        )  # the best member's, of those tied


@given(answers)
def test_an_attribute_vote_is_a_hard_vote_on_each_attribute(ans):
    voted = decode(voting.cast_votes("attribute", ans))
    for axis, answered in enumerate(decode(ans)):
        assert np.array_equal(voted[axis], voting.plurality(answered))


def test_an_attribute_vote_may_answer_what_nobody_did():
    # wear female <30, wear male 30-59, incorrect male <30
    assert voting.cast_votes("attribute", np.array([[3], [1], [6]], dtype=np.int8)).tolist() == [0]


@given(answers)
def test_equal_weights_are_a_hard_vote_and_no_weight_is_no_say(ans):
    hard = voting.cast_votes("hard", ans)
    assert np.array_equal(voting.cast_votes("weighted", ans, np.full(len(ans), 0.7)), hard)
    assert np.array_equal(
        voting.cast_votes(
            "weighted", np.vstack([ans, ans[:1], ans[:1]]), [0.7] * len(ans) + [0, 0]
        ),
        hard,
    )
    assert np.array_equal(voting.cast_votes("weighted", ans, np.zeros(len(ans))), ans[0])


def test_a_heavy_member_outvotes_two_light_ones():
    ans = np.array([[5], [9], [9]], dtype=np.int8)
    assert voting.cast_votes("weighted", ans, [0.8, 0.3, 0.4]).tolist() == [5]
    assert voting.cast_votes("weighted", ans, [0.8, 0.5, 0.4]).tolist() == [9]


def test_sums_that_differ_by_rounding_alone_are_a_tie():
    ans = np.array([[5], [9], [9]], dtype=np.int8)
    assert 0.1 + 0.2 > 0.3 and voting.cast_votes("weighted", ans, [0.3, 0.1, 0.2]).tolist() == [5]


def test_a_soft_vote_is_the_highest_mean():
    sure, unsure = np.zeros((1, CLASSES)), np.zeros((1, CLASSES))
    sure[0, 4], sure[0, 5] = 0.9, 0.1
    unsure[0, 4], unsure[0, 5] = 0.4, 0.6
    ans = np.array([[5], [5], [4]], dtype=np.int8)
    assert voting.cast_votes("soft", ans, probabilities=[unsure, unsure, sure]).tolist() == [4]
    assert voting.cast_votes("hard", ans).tolist() == [5]


# ---------------------------------------------------------------------------- files

IDS = ("a.jpg", "b.jpg", "c.jpg")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("output").mkdir()
    return Path("output")


def member(folder, name, ans, score=None, ids=IDS, probabilities=True):
    """The files that inference leaves for one model."""
    path = folder / f"{name}.csv"
    submission.write_submission(path, pd.DataFrame({"ImageID": ids, "ans": ans}))
    submission.write_sidecar(path, {"name": name, "model": "swin", "macro_f1": score})
    if probabilities:
        submission.write_probabilities(path.with_suffix(".npz"), ids, one_hot(np.array(ans)))
    return str(path)


def vote(*argv):
    ensemble.vote(ensemble.parse_args(["vote", *map(str, argv)]))


def answered(path):
    return submission.read_submission(Path(path)).set_index("ImageID")["ans"].to_dict()


@pytest.mark.parametrize("method", ensemble.METHODS)
def test_a_vote_writes_csv_and_json_and_soft_its_probabilities(folder, capsys, method):
    paths = [
        member(folder, name, [1, 2, 3], score)
        for name, score in (("low", 0.5), ("high", 0.7), ("middle", 0.6))
    ]
    vote(*paths, "--method", method)
    output = folder / f"vote-{method}-3.csv"
    assert output.read_bytes() == b"ImageID,ans\na.jpg,1\nb.jpg,2\nc.jpg,3\n"
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["kind"] == "vote" and told["method"] == method and told["macro_f1"] is None
    assert told["members"][0] == {"name": "high", "score": 0.7, "agreement": 1}
    assert [row["name"] for row in told["members"]] == ["high", "middle", "low"]
    assert output.with_suffix(".npz").exists() == (method == "soft")
    assert f"written to {output}" in capsys.readouterr().out


def test_the_vote_has_the_rows_of_the_best_member_in_its_order(folder):
    low = member(folder, "low", [1, 2, 3], 0.5)
    high = member(folder, "high", [6, 2, 1], 0.7, ids=("c.jpg", "b.jpg", "a.jpg"))
    for method in ensemble.METHODS:
        vote(low, high, "--method", method, "--output", "v.csv")
        assert Path("v.csv").read_bytes().startswith(b"ImageID,ans\nc.jpg,"), method
    vote(low, high, "--output", "v.csv")
    assert answered("v.csv") == {"c.jpg": 6, "b.jpg": 2, "a.jpg": 1}
    mean = dict(zip(*submission.read_probabilities(Path(low).with_suffix(".npz")), strict=True))
    assert mean["a.jpg"].argmax() == 1


def test_a_soft_vote_matches_probabilities_by_photo(folder):
    first = member(folder, "first", [1, 2, 3], 0.7)
    second = member(folder, "second", [3, 2, 1], 0.6, ids=IDS[::-1])
    vote(first, second, "--method", "soft", "--output", "v.csv")
    ids, probabilities = submission.read_probabilities(Path("v.npz"))
    assert ids.tolist() == list(IDS) and np.array_equal(probabilities, one_hot(np.array([1, 2, 3])))


def test_top_k_takes_the_best_by_validation_score(folder, capsys):
    paths = [
        member(folder, name, ans, score)
        for name, ans, score in (("w", [0] * 3, 0.1), ("x", [5] * 3, 0.9), ("y", [7] * 3, 0.8))
    ]
    vote(*paths, "--top_k", 2)
    assert set(answered(folder / "vote-hard-2.csv").values()) == {5}
    assert "not among the first 2: w" in capsys.readouterr().out


def test_order_given_takes_them_as_given(folder):
    paths = [
        member(folder, name, ans, score)
        for name, ans, score in (("w", [0] * 3, 0.1), ("x", [5] * 3, 0.9))
    ]
    vote(*paths, "--order", "given", "--top_k", 1)
    assert set(answered(folder / "vote-hard-1.csv").values()) == {0}


def test_without_any_score_the_order_given_is_used_and_said(folder, capsys):
    paths = [member(folder, name, ans) for name, ans in (("w", [0] * 3), ("x", [5] * 3))]
    (folder / "x.json").unlink()
    vote(*paths, "--top_k", 5)
    assert set(answered(folder / "vote-hard-2.csv").values()) == {0}
    out = capsys.readouterr().out
    assert "no CSV has a score: taken in the order given" in out and "2 CSVs for --top_k 5" in out


def test_who_has_no_score_is_named_and_comes_last(folder, capsys):
    paths = [
        member(folder, name, ans, score)
        for name, ans, score in (("none", [0] * 3, None), ("x", [5] * 3, 0.2))
    ]
    vote(*paths)
    assert set(answered(folder / "vote-hard-2.csv").values()) == {5}
    assert "without a score, placed last: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.csv", "name,score\nw,0.9\nx.csv,0.2\nother,0.5\n"),
        ("scores.json", '{"w": 0.9, "x": 0.2, "other": 0.5}'),
    ],
)
def test_leaderboard_scores_replace_those_of_validation(folder, capsys, name, content):
    paths = [
        member(folder, name, ans, score)
        for name, ans, score in (("x", [5] * 3, 0.9), ("w", [0] * 3, 0.1), ("y", [7] * 3, 0.8))
    ]
    Path(name).write_text(content)
    vote(*paths, "--scores", name)
    members = json.loads((folder / "vote-hard-3.json").read_text())["members"]
    assert [(row["name"], row["score"]) for row in members] == [("w", 0.9), ("x", 0.2), ("y", None)]
    out = capsys.readouterr().out
    assert (
        f"in {name} but not among the CSVs: other" in out
        and "without a score, placed last: y" in out
    )


def test_earlier_votes_are_left_out_and_kept_unless_they_may_be_replaced(folder, capsys):
    member(folder, "x", [5] * 3, 0.9)
    vote(*folder.glob("*.csv"), "--output", folder / "vote.csv", "--method", "soft")
    member(folder, "x", [6] * 3, 0.9)
    vote(*folder.glob("*.csv"), "--output", folder / "vote.csv")
    said = capsys.readouterr().out
    assert "earlier votes, left out: vote" in said and "this one is vote-2.csv" in said
    assert set(answered(folder / "vote.csv").values()) == {5}
    assert set(answered(folder / "vote-2.csv").values()) == {6}
    vote(folder / "x.csv", "--output", folder / "vote.csv", "--overwrite")
    assert set(answered(folder / "vote.csv").values()) == {6}
    assert not (folder / "vote.npz").exists()  # the soft vote's, which is gone


def test_a_model_that_votes_twice_is_told(folder, capsys):
    for name, ans in (("x", [5, 6, 7]), ("x-2", [5, 6, 7]), ("y", [5, 6, 8])):
        member(folder, name, ans, 0.9)
    vote(*sorted(folder.glob("*.csv")))
    assert capsys.readouterr().out.count("warning: ") == 1
    vote(folder / "x.csv", folder / "x-2.csv")
    assert "warning: x-2 predicts the same as x for every photo" in capsys.readouterr().out


def test_models_of_one_name_in_two_folders_are_told_apart(folder, capsys):
    Path("other").mkdir()
    vote(member(folder, "x", [5] * 3, 0.9), member(Path("other"), "x", [5] * 3, 0.9))
    out = capsys.readouterr().out
    assert "output/x " in out and "other/x " in out


@pytest.mark.parametrize("taken", ["output/x.csv", "answers.csv", "settings.csv"])
def test_nothing_but_a_vote_is_written_over(folder, taken):
    path = member(folder, "x", [5] * 3)
    Path("answers.csv").write_text("ImageID,ans\na.jpg,1\n")
    Path("settings.json").write_text("{}")
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="is not a vote"):
        vote(path, "--output", taken, "--overwrite")
    assert {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()} == before
    vote(path, "--output", taken)
    assert {file: file.read_bytes() for file in before} == before


def broken(folder, what):
    """One thing wrong with the files of two models; returns more arguments for the vote."""
    x = folder / "x.csv"
    if what == "other photos":
        member(folder, "x", [5] * 3, ids=("a.jpg", "b.jpg", "d.jpg"))
    elif what == "fewer photos":
        member(folder, "x", [5] * 2, ids=("a.jpg", "b.jpg"))
    elif what == "no class":
        x.write_text("ImageID,ans\na.jpg,5\nb.jpg,18\nc.jpg,1\n")
    elif what == "broken json":
        x.with_suffix(".json").write_text("{")
    elif what == "strange score":
        x.with_suffix(".json").write_text('{"macro_f1": "good"}')
    elif what == "no npz":
        x.with_suffix(".npz").unlink()
    elif what == "npz of other photos":
        submission.write_probabilities(
            x.with_suffix(".npz"), ["a.jpg", "b.jpg", "z.jpg"], one_hot([1, 2, 3])
        )
    elif what == "npz of a photo twice":
        submission.write_probabilities(
            x.with_suffix(".npz"), ["a.jpg", "b.jpg", "b.jpg"], one_hot([1, 2, 3])
        )
    elif what == "npz of 17 classes":
        submission.write_probabilities(x.with_suffix(".npz"), IDS, one_hot([1, 2, 3])[:, :17])
    elif what == "scores twice":
        Path("s.csv").write_text("name,score\nx,0.5\nx.csv,0.6\n")
    elif what == "scores without a name":
        Path("s.csv").write_text("model,score\nx,0.5\n")
    elif what == "score is no number":
        Path("s.csv").write_text("name,score\nx,nan\n")
    return {
        "given twice": [x],
        "no such file": ["output/*.csv"],
        "a folder": [folder],
        "output no csv": ["--output", "v.txt"],
        "weighted without score": ["--method", "weighted"],
        "scores missing": ["--scores", "none.csv"],
    }.get(
        what,
        ["--method", "soft"]
        if "npz" in what
        else ["--scores", "s.csv"]
        if "score" in what and "strange" not in what
        else [],
    )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "other photos",
            r"x\.csv: its photos are not those of the rest: "
            r"1 missing \('c.jpg'\), 1 extra \('d.jpg'\)",
        ),
        ("fewer photos", r"x\.csv: its photos are not those of the rest: 1 missing \('c.jpg'\)"),
        ("no class", r"x\.csv, row 3: ans '18' is not a class"),
        ("broken json", r"x\.json: cannot be read as JSON"),
        ("strange score", r"x\.json: 'good' is not a score"),
        ("no npz", r"x\.npz: does not exist"),
        ("npz of other photos", r"x\.npz: .* 1 missing \('c.jpg'\), 1 extra \('z.jpg'\)"),
        ("npz of a photo twice", r"x\.npz: ImageID 'b.jpg' appears twice"),
        ("npz of 17 classes", r"x\.npz: has probabilities of 17 classes, not 18"),
        ("scores twice", r"s\.csv: 'x' appears twice"),
        ("scores without a name", r"s\.csv: has no column 'name'"),
        ("score is no number", r"s\.csv, 'x': 'nan' is not a score"),
        ("scores missing", r"none\.csv: cannot be read"),
        ("given twice", r"x\.csv: is given twice"),
        ("no such file", r"output/\*\.csv: does not exist"),
        ("a folder", r"output: is not a file"),
        ("output no csv", r"--output v\.txt: give a name that ends in \.csv"),
        ("weighted without score", r"--method weighted: no score for 'w', 'x'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(folder, what, said):
    paths = [member(folder, name, [5, 6, 7]) for name in "wx"]
    more = broken(folder, what)
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=said):
        vote(*paths, *more)
    assert {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()} == before


def test_only_votes_are_nothing_to_vote_on(folder):
    vote(member(folder, "x", [5] * 3), "--output", "v.csv")
    with pytest.raises(UserError, match="every CSV given is itself a vote"):
        vote("v.csv")


# ---------------------------------------------------------------------------- members


@pytest.mark.parametrize("method", ["hard", "soft"])
def test_members_shows_who_adds_to_the_vote(folder, capsys, method):
    ids = [f"{label}.jpg" for label in range(CLASSES)]
    right = np.arange(CLASSES)
    spoiled = {
        name: np.where(right % 3 == part, (right + part + 1) % CLASSES, right)
        for part, name in enumerate("xyz")
    }
    paths = [member(folder, name, ans.tolist(), ids=ids) for name, ans in spoiled.items()]
    paths.append(member(folder, "zzz", [17] * CLASSES, ids=ids))
    submission.write_submission(
        Path("answers.csv"), pd.DataFrame({"ImageID": ids[::-1], "ans": right[::-1]})
    )
    args = ensemble.parse_args(["members", *paths, "--answers", "answers.csv", "--method", method])
    ensemble.contributions(args)
    said = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: line.split()[2:] for line in said if line[:3].strip().isdigit()}
    together = next(line.split()[-1] for line in said if "vote of all" in line)
    assert (
        f"{method} {together}" in said[-1] and "attribute " in said[-1]
    )  # all methods side by side
    assert set(rows) == {"x", "y", "z", "zzz"}
    alone, without, adds = map(float, rows["x"])
    assert alone < 1 and without < 1 and adds > 0
    assert (
        float(rows["zzz"][1]) == 1 and float(rows["zzz"][2]) <= 0
    )  # the other three together are always right


def test_members_wants_two_and_answers_to_the_same_photos(folder):
    x, y = member(folder, "x", [5] * 3), member(folder, "y", [5] * 3)
    Path("answers.csv").write_text("ImageID,ans\na.jpg,1\n")
    with pytest.raises(UserError, match="at least two"):
        ensemble.contributions(ensemble.parse_args(["members", x, "--answers", "answers.csv"]))
    with pytest.raises(UserError, match=r"answers\.csv: .* 2 missing"):
        ensemble.contributions(ensemble.parse_args(["members", x, y, "--answers", "answers.csv"]))


# ---------------------------------------------------------------------------- the command


def command(*argv):
    return subprocess.run(
        [sys.executable, str(ROOT / "ensemble.py"), *map(str, argv)], capture_output=True, text=True
    )


def test_the_command_votes_and_says_what_is_wrong_in_one_line(folder):
    paths = [member(folder, name, [5, 6, 7], 0.5) for name in "wx"]
    done = command("vote", *paths)
    assert (
        done.returncode == 0 and done.stderr == "" and "hard vote of 2 on 3 photos" in done.stdout
    )
    failed = command("vote", *paths, "none.csv")
    assert failed.returncode == 2 and failed.stderr == "ensemble.py: none.csv: does not exist\n"


@pytest.mark.parametrize("argv", [["--help"], ["vote", "--help"], ["members", "--help"]])
def test_help_shows_examples_and_imports_nothing_heavy(argv):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "ensemble.py"), *argv],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "examples:" in done.stdout and "numpy" not in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["vote", "a.csv", "--top_k", "0"],
        ["vote", "a.csv", "--method", "loud"],
        ["vote"],
        ["members", "a.csv"],
    ],
)
def test_wrong_flags_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        ensemble.parse_args(argv)
    assert stop.value.code == 2


# ---------------------------------------------------------------------------- attributes


@pytest.mark.parametrize("probabilities", [True, False])
def test_mask_gender_and_age_of_three_models_are_combined(folder, probabilities):
    """Class 17 is not worn, female, 60+; 9 incorrect, female, <30; 1 worn, male, 30 to 59."""
    paths = [
        member(folder, name, ans, probabilities=probabilities, ids=ids)
        for name, ans, ids in (
            ("mask", [17, 9, 1], IDS),
            ("gender", [1, 9, 17], IDS),
            ("age", [1, 9, 17], IDS[::-1]),
        )
    ]
    argv = ["combine", "--mask", paths[0], "--gender", paths[1], "--age", paths[2]]
    ensemble.combine(ensemble.parse_args(argv))
    # a: not worn, male, 60+ (c's row comes first in age); b: as given; c: worn, female, 30 to 59
    assert answered(folder / "combined.csv") == {"a.jpg": 14, "b.jpg": 9, "c.jpg": 4}
    assert (folder / "combined.npz").exists() == probabilities
    ensemble.combine(ensemble.parse_args(argv))
    assert answered(folder / "combined-2.csv") == answered(folder / "combined.csv")
    vote(folder / "combined.csv", *paths, "--output", "v.csv")


def test_tables_in_words_beside_submissions_do_not_vote(folder, capsys):
    path = Path(member(folder, "x", [5, 6, 7], 0.9))
    submission.write_table(path, IDS, one_hot(np.array([5, 6, 7])))
    vote(*sorted(folder.glob("*.csv")))
    assert "tables of probabilities, left out: 1" in capsys.readouterr().out
    assert (folder / "vote-hard-1.csv").exists()
