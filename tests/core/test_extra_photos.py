"""The list of --extra: what is read, what is refused."""

import shutil

import numpy as np
import pytest

from core import extra_photos
from core.errors import UserError
from core.labels import MAX_AGE, OFFICIAL_BANDS, decode


@pytest.fixture
def listed(photos, tmp_path):
    """listed(rows after a photo's path, header) -> the list, with as many photos beside it."""

    def make(*rows, header="path,mask,gender,age"):
        paths = photos(len(rows))
        lines = [f"{path.name},{row}" for path, row in zip(paths, rows, strict=True)]
        table = tmp_path / "extra.csv"
        table.write_text("\n".join([header, *lines]) + "\n")
        return table

    return make


def test_empty_cells_are_unknown(listed):
    frame = extra_photos.read_extra(
        listed(",female,34", "not wear,,", "mask3,male,20-29", ",,60+", "incorrect,Male,61.0")
    )
    assert [path.rsplit("/", 1)[-1] for path in frame["path"]] == [
        f"photo{i}.png" for i in range(5)
    ]
    assert frame[["mask", "gender", "youngest", "oldest"]].to_numpy().tolist() == [
        [-1, 1, 34, 34],
        [2, -1, 0, MAX_AGE],
        [0, 0, 20, 29],
        [-1, -1, 60, MAX_AGE],
        [1, 0, 61, 61],
    ]
    assert extra_photos.summary(frame) == "5 photos; known: mask of 3, gender of 3, age of 4"
    mask, gender, band = extra_photos.certain(frame, OFFICIAL_BANDS)
    assert (mask.tolist(), gender.tolist()) == ([-1, 2, 0, -1, 1], [1, -1, 0, -1, 0])
    assert band.tolist() == [1, -1, 0, 2, 2]


def test_columns_may_be_missing_and_of_any_order(listed):
    frame = extra_photos.read_extra(listed("25,FairFace", header="path,Age,source"))
    assert frame.iloc[0, 1:].tolist() == [-1, -1, 25, 25]


def test_possible_classes_agree_with_what_is_known(listed):
    rows = (",female,34", "not wear,,", ",male,25-40", "wear,,60+")
    frame = extra_photos.read_extra(listed(*rows))
    possible = extra_photos.possible_classes(frame, OFFICIAL_BANDS)
    mask, gender, band = decode(np.arange(18))
    expected = [
        (gender == 1) & (band == 1),
        mask == 2,
        (gender == 0) & (band < 2),
        (mask == 0) & (band == 2),
    ]
    assert np.array_equal(possible, expected)
    shifted = extra_photos.possible_classes(frame, (29, 57))
    assert np.array_equal(shifted, expected)
    assert extra_photos.possible_classes(frame, (41, 57))[2].sum() == 3  # young, any mask


def test_a_model_of_one_attribute_gets_the_photos_that_have_it(listed):
    table = listed(",female,34", "wear,,", ",male,")
    assert len(extra_photos.read_extra(table, "gender")) == 2
    assert len(extra_photos.read_extra(table, "age")) == 1
    with pytest.raises(UserError, match="lists no photos whose age is known"):
        extra_photos.read_extra(listed(",female,"), "age")


def test_paths_are_relative_to_the_list_or_absolute(photos, tmp_path):
    (inside,), table = photos(1), tmp_path / "lists" / "extra.csv"
    table.parent.mkdir()
    for path in (inside, f"../{inside.name}"):
        table.write_text(f"path,age\n{path},30\n")
        assert len(extra_photos.read_extra(table)) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["wear,x,3"], "row 2: gender cannot be 'x'"),
        (["worn,,3"], "row 2: mask cannot be 'worn'"),
        (["wear,male,3", "wear,male,young"], "row 3: age cannot be 'young'"),
        (["wear,male,121"], "row 2: age cannot be '121'"),
        (["wear,male,30-20"], "row 2: age cannot be '30-20'"),
        (["wear,male,-3"], "row 2: age cannot be '-3'"),
        ([",,"], "row 2: gives no mask, gender or age"),
        ([], "lists no photos"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(listed, rows, said):
    with pytest.raises(UserError, match=said):
        extra_photos.read_extra(listed(*rows))


def test_a_photo_that_is_missing_or_listed_twice_is_named(listed, tmp_path):
    table = listed("wear,male,3")
    table.write_text("path,age\nphoto0.png,3\nphoto9.png,4\n")
    said = r"row 3: there is no photo .*photo9\.png.*; 1 photo is missing \(of 2\)"
    with pytest.raises(UserError, match=said):
        extra_photos.read_extra(table)
    table.write_text("path,age\nphoto0.png,3\n./photo0.png,4\n")
    with pytest.raises(UserError, match=r"lists .*photo0\.png twice"):
        extra_photos.read_extra(table)


def test_photos_of_data_dir_are_refused_whatever_their_name(listed, photos, tmp_path):
    """They could be validated on, while their labels are learned from the list."""
    table = listed("wear,male,3", ",,40", ",,41")
    frame = extra_photos.read_extra(table)
    same, copied, other = (tmp_path / f"photo{index}.png" for index in range(3))
    own = tmp_path / "train"
    own.mkdir()
    (own / "link.png").symlink_to(same)
    shutil.copy(copied, own / "copy.png")
    longer, as_long = own / "longer.png", own / "as long.png"
    longer.write_bytes(other.read_bytes() + b" ")
    as_long.write_bytes(other.read_bytes()[:-1] + b" ")
    extra_photos.refuse_own(frame, [longer, as_long, own / "gone.png"], table)
    with pytest.raises(UserError, match=r"lists 1 photo of --data_dir, first .*photo0\.png"):
        extra_photos.refuse_own(frame, [longer, own / "link.png"], table)
    with pytest.raises(UserError, match=r"lists 1 photo of --data_dir, first .*photo1\.png"):
        extra_photos.refuse_own(frame, [str(own / "copy.png"), as_long], table)


def test_a_column_is_not_given_twice(listed):
    with pytest.raises(UserError, match="several columns 'age'"):
        extra_photos.read_extra(listed("25,30", header="path,age,Age"))


def test_the_order_of_the_rows_does_not_matter(listed):
    """A run is resumed in the middle of an epoch, by the rows of its photos."""
    frame = extra_photos.read_extra(table := listed("wear,,", ",male,", ",,30"))
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[::-1]]))
    assert extra_photos.read_extra(table).equals(frame)
