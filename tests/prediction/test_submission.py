import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import UserError
from core.labels import CLASSES
from prediction import submission

image_ids = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
        lambda name: name == name.strip()
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


def test_a_submission_is_written_as_the_competition_has_it(tmp_path):
    path = tmp_path / "output" / "swin.csv"
    submission.write_submission(path, pd.DataFrame({"ImageID": ["b.jpg", "a.jpg"], "ans": [3, 17]}))
    assert path.read_bytes() == b"ImageID,ans\nb.jpg,3\na.jpg,17\n"
    assert [file.name for file in path.parent.iterdir()] == ["swin.csv"]


@given(ids=image_ids, data=st.data())
def test_what_is_written_is_read_back(tmp_path_factory, ids, data):
    ans = data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=len(ids), max_size=len(ids)))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    submission.write_submission(path, pd.DataFrame({"ImageID": ids, "ans": ans}))
    frame = submission.read_submission(path)
    assert frame["ImageID"].tolist() == ids and frame["ans"].tolist() == ans


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfImageID,ans\r\na.jpg,3\r\nb.jpg,4\r\n",
        b"ImageID,ans\na.jpg,3\nb.jpg,4",
        b"ImageID, ans\na.jpg, 3\nb.jpg, 4\n\n\n",
        b"ans,path,ImageID\n3,x,a.jpg\n4,y,b.jpg\n",
        b'"ImageID","ans"\n"a.jpg","3"\n"b.jpg","4"\n',
        b"ImageID,ans\na.jpg,3,\nb.jpg,4,\n",
        b"ImageID,ans\nb.jpg,4\na.jpg,3\n",
        b"ImageID,ans\na.jpg,03\nb.jpg,4\n",
        b"ImageID,ans\na.jpg,3.0\nb.jpg,4.0\n",
        b"IMAGEID;Ans\na.jpg;3\nb.jpg;4\n",
        "ImageID\tans\na.jpg\t3\nb.jpg\t4\n".encode("utf-16"),
    ],
)
def test_what_editors_and_spreadsheets_make_of_a_csv_is_read(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert submission.read_submission(path).set_index("ImageID")["ans"].to_dict() == {
        "a.jpg": 3,
        "b.jpg": 4,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as text (an empty file)"),
        (b"PK\3\4", "cannot be read as text (an Excel workbook"),
        (b"ImageID,ans\n", "has a header but no rows"),
        (b"ImageID,label\na,3\n", "has no column 'ans'; its columns are ImageID, label"),
        (
            b"ImageID,ans\na,3\nb,18\n",
            "row 3: ans '18' is not a class; it is a whole number from 0 to 17",
        ),
        (b"ImageID,ans\na,3\nb,-1\n", "row 3: ans '-1' is not a class"),
        (b"ImageID,ans\na,3\nb,4.5\n", "row 3: ans '4.5' is not a class"),
        (b"ImageID,ans\na,3\nb,\n", "row 3: ans '' is not a class"),
        (b"ImageID,ans\na,3\nb\n", "row 3: ans '' is not a class"),
        (b"ImageID,ans\na,nan\n", "row 2: ans 'nan' is not a class"),
        (b"ImageID,ans\na,True\n", "row 2: ans 'True' is not a class"),
        (
            b"ImageID,ans\na,99999999999999999999\n",
            "row 2: ans '99999999999999999999' is not a class",
        ),
        (b"ImageID,ans\na,3\n,4\n", "row 3: has no ImageID"),
        (b"ImageID,ans\na,3\nb,4\na,3\n", "row 4: ImageID 'a' appears twice"),
        (b"ImageID,ans\n\xff,3\n", "is not UTF-8, UTF-16 or cp949"),
        (b'ImageID,ans\n"a,3\n', "cannot be read as CSV (Error tokenizing"),
    ],
)
def test_what_is_no_submission_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        submission.read_submission(path)
    assert said in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


rows_near_plain = st.lists(
    st.tuples(st.text("a1.-/", max_size=3), st.text("0123-.,a", min_size=1, max_size=2)), max_size=4
)


@example(rows=[("1", "-0")], end="\n")
@given(rows=rows_near_plain, end=st.sampled_from(["\n", "", "\n\n"]))
def test_the_fast_reader_agrees_with_the_careful_one(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("ImageID,ans\n" + "\n".join(map(",".join, rows)) + end)
    fast = submission._read_plain(path)
    if fast is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(submission, "_read_plain", lambda _: None)
            ids, ans = submission.read_columns(path)
        assert submission.as_text(fast[0]).tolist() == ids.tolist()
        assert fast[1].tolist() == ans.tolist()


def test_what_is_written_is_read_by_the_fast_reader(tmp_path):
    path = tmp_path / "a.csv"
    submission.write_submission(path, pd.DataFrame({"ImageID": ["b/c-1.jpg"], "ans": [17]}))
    ids, ans = submission._read_plain(path)
    assert ids.tolist() == [b"b/c-1.jpg"] and ans.tolist() == [17]


def test_a_wrong_answer_far_down_a_large_file_is_named(tmp_path, recwarn):
    path = tmp_path / "a.csv"
    path.write_text(
        "ImageID,ans\n" + "".join(f"{row:040}.jpg,3\n" for row in range(300_000)) + "z.jpg,male\n"
    )
    with pytest.raises(UserError, match="row 300002: ans 'male'"):
        submission.read_submission(path)
    assert not recwarn.list


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file"):
        submission.read_submission(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["=cmd()|x.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\tx.jpg"])
def test_names_that_look_like_flags_or_formulas_are_written_as_they_are(tmp_path, name):
    frame = pd.DataFrame({"ImageID": ["a.jpg", name], "ans": [0, 1]})
    submission.write_submission(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_text() == f"ImageID,ans\na.jpg,0\n{name},1\n"


@pytest.mark.parametrize("ans", [[18], [-1], [1.0]])
def test_only_classes_are_written(tmp_path, ans):
    with pytest.raises(ValueError, match="whole numbers"):
        submission.write_submission(
            tmp_path / "a.csv", pd.DataFrame({"ImageID": ["a"], "ans": ans})
        )


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        submission.write_submission(
            tmp_path / "file" / "a.csv", pd.DataFrame({"ImageID": ["a"], "ans": [0]})
        )
    with pytest.raises(UserError, match="cannot be written"):
        submission.write_sidecar(tmp_path / "file" / "a.csv", {})


def test_other_photos_are_named(tmp_path):
    with pytest.raises(
        UserError, match=r"a\.csv: .* 1 missing \('c'\), 5 extra \('d', 'e', 'f' and 2 more\)"
    ):
        submission.align(tmp_path / "a.csv", list("abdefgh"), pd.Index(list("abc")))


# ---------------------------------------------------------------------------- beside the answers


def test_probabilities_are_read_back(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=3).astype(np.float32)
    submission.write_probabilities(tmp_path / "a.npz", pd.Series(["x", "ü,", "z"]), probabilities)
    ids, read = submission.read_probabilities(tmp_path / "a.npz")
    assert (
        ids.tolist() == ["x", "ü,", "z"]
        and np.array_equal(read, probabilities)
        and read.dtype == np.float32
    )


def test_a_sidecar_is_read_back_and_empty_where_there_is_none(tmp_path):
    submission.write_sidecar(tmp_path / "a.csv", {"macro_f1": 0.5})
    assert submission.read_sidecar(tmp_path / "a.csv") == {"macro_f1": 0.5}
    assert submission.read_sidecar(tmp_path / "b.csv") == {}


ROWS = np.full((2, CLASSES), 1 / CLASSES, np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"ImageID": ["a", "b"]}, "holds no array"),
        ({"ImageID": ["a", "b"], "probabilities": ROWS[:, :17]}, "17 classes, not 18"),
        ({"ImageID": ["a"], "probabilities": ROWS}, "expected text (N,)"),
        ({"ImageID": [1, 2], "probabilities": ROWS}, "expected text (N,)"),
        (
            {"ImageID": ["a", "b"], "probabilities": ROWS * np.array([[1], [2]])},
            "1 row without probabilities, first that of 'b'",
        ),
        ({"ImageID": ["a", "b"], "probabilities": ROWS * np.nan}, "2 rows without probabilities"),
        (
            {"ImageID": np.array(["a", "b"], dtype=object), "probabilities": ROWS},
            "cannot be read as npz",
        ),
    ],
)
def test_what_is_no_npz_of_probabilities_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as error:
        submission.read_probabilities(tmp_path / "a.npz")
    assert said in str(error.value) and "a.npz" in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 and then nothing", b"\x80\x04]\x94.", b"\x93NUMPY\x01\x00"]
)
def test_a_broken_npz_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: cannot be read as npz"):
        submission.read_probabilities(tmp_path / "a.npz")


def test_a_single_array_is_no_npz(tmp_path):
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, ROWS)
    with pytest.raises(UserError, match=r"a\.npz: cannot be read as npz"):
        submission.read_probabilities(tmp_path / "a.npz")
