import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dataset
from core import labels
from core.errors import UserError
from core.people import parse_person
from core.photo import PhotoError, load_photo
from dataset import EpochSampler, Photos
from training.augmentation import augmentation
from training.split import read_split, sampling_weights, split_people, thin, write_split

ADA, BEA, CID = "001_female_Asian_25", "002-1_male_East Asian_60", "a_b-c_male_Asian_30"


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ----------------------------------------------------------------------------------------- labels


@given(st.integers(0, 17))
def test_decode_undoes_encode(label):
    mask, gender, age = labels.decode(label)
    assert (mask in range(3), gender in range(2), age in range(3)) == (True, True, True)
    assert labels.encode(mask, gender, (10, 45, 80)[age]) == label
    assert (
        labels.CLASS_NAMES[label]
        == f"{labels.MASKS[mask]} {labels.GENDERS[gender]} {labels.AGES[age]}"
    )


@pytest.mark.parametrize(("age", "band"), [(0, 0), (29, 0), (30, 1), (59, 1), (60, 2), (100, 2)])
def test_a_band_ends_just_before_its_bound(age, band):
    assert labels.age_band(age) == band


@pytest.mark.parametrize(("age", "band"), [(28, 0), (29, 1), (56, 1), (57, 2)])
def test_the_winners_bands_are_shifted(age, band):
    assert labels.age_band(age, (29, 57)) == band


def test_labels_are_the_competitions_table():
    assert labels.encode(0, 0, 29) == 0
    assert labels.encode(0, 1, 60) == 5
    assert labels.encode(1, 0, 30) == 7
    assert labels.encode(2, 1, 60) == 17
    assert labels.encode(np.array([0, 2]), np.array([1, 0]), np.array([59, 60])).tolist() == [4, 14]


# -------------------------------------------------------------------------------- names of people


@given(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20),
    st.sampled_from(("male", "female")),
    st.text(st.characters(exclude_characters="/\0_", codec="utf-8"), max_size=10),
    st.integers(0, 120),
)
def test_a_folders_name_is_read_from_the_right(identity, gender, race, age):
    person = parse_person(f"{identity}_{gender}_{race}_{age}")
    assert (person["id"], labels.GENDERS[person["gender"]], person["race"], person["age"]) == (
        identity,
        gender,
        race,
        age,
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "001_male_Asian",
        "001_man_Asian_20",
        "001_male_Asian_x",
        "001_male_Asian_-1",
        "001_male_Asian_121",
        "001_male_Asian_20.5",
        "images",
    ],
)
def test_other_names_are_nobody(name):
    assert parse_person(name) is None


# ---------------------------------------------------------------------- reading people and photos


def test_people_and_photos_are_read_from_the_folders_names(people):
    frame = dataset.read_train(people([BEA, ADA, CID]))
    assert frame["person"].drop_duplicates().tolist() == [ADA, BEA, CID]
    assert len(frame) == 21
    ada = frame[frame["person"] == ADA].set_index("photo")
    assert ada["label"].to_dict() == {
        **{f"mask{i}": 3 for i in range(1, 6)},
        "incorrect_mask": 9,
        "normal": 15,
    }
    assert set(frame[frame["person"] == CID]["id"]) == {"a_b-c"}
    assert set(frame[frame["person"] == BEA]["label"]) == {2, 8, 14}
    assert all(
        Path(row["path"]).parts[-2:] == (row["person"], row["photo"] + ".jpg")
        for _, row in frame.iterrows()
    )


def test_the_images_folder_serves_as_well_as_the_one_above(people):
    root = people([ADA], csv=[f"001,female,Asian,25,{ADA}"])
    pd.testing.assert_frame_equal(dataset.read_train(root), dataset.read_train(root / "images"))


def test_csv_and_folders_names_give_the_same(people):
    root = people([ADA, BEA])
    from_names = dataset.read_train(root)
    (root / "train.csv").write_text(
        "\ufeffid,gender,race,age,path\n"
        f"002-1,Male,East Asian,60,{BEA}\n001,female,Asian,25,{ADA}\n"
    )
    pd.testing.assert_frame_equal(dataset.read_train(root), from_names)


def test_one_id_of_two_people_stays_two_people(people):
    frame = dataset.read_train(people(["003397_male_Asian_20", "003397_female_Asian_60"]))
    assert frame["person"].nunique() == 2
    assert frame["id"].nunique() == 1
    assert set(frame["label"]) == {0, 6, 12, 5, 11, 17}


def test_extensions_in_any_case_fewer_photos_and_junk(people):
    files = (
        "mask1.JPG",
        "mask2.jpeg",
        "normal.PNG",
        "._mask1.jpg",
        ".DS_Store",
        "Thumbs.db",
        "notes.txt",
        "mask6.jpg",
    )
    root = people([ADA], files=files)
    for name in (".hidden", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"):
        (root / "images" / name).mkdir()
    assert [Path(path).name for path in dataset.read_train(root)["path"]] == [
        "mask1.JPG",
        "mask2.jpeg",
        "normal.PNG",
    ]


def test_two_files_of_one_photo_are_an_error(people):
    with pytest.raises(UserError) as error:
        dataset.read_train(people([ADA], files=("mask1.jpg", "mask1.png")))
    assert "keep one" in one_line(error)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([f"001,female,Asian,25,{ADA}"], "among the folders but not in the csv"),
        (
            [
                f"001,female,Asian,25,{ADA}",
                f"002-1,male,East Asian,60,{BEA}",
                "9,male,Asian,20,9_male_Asian_20",
            ],
            "in the csv but not among",
        ),
        (
            [f"001,male,Asian,25,{ADA}", f"002-1,male,East Asian,60,{BEA}"],
            "row 2: gender or age disagrees",
        ),
        (
            [f"001,female,Asian,25,{ADA}", f"002-1,male,East Asian,59,{BEA}"],
            "row 3: gender or age disagrees",
        ),
        ([f"001,woman,Asian,25,{ADA}", f"002-1,male,East Asian,60,{BEA}"], "row 2: gender 'woman'"),
        (
            [f"001,female,Asian,25,{ADA}", f"002-1,male,East Asian,sixty,{BEA}"],
            "row 3: age 'sixty'",
        ),
        ([f"001,female,Asian,,{ADA}", f"002-1,male,East Asian,60,{BEA}"], "row 2: age ''"),
        ([f"001,female,Asian,250,{ADA}", f"002-1,male,East Asian,60,{BEA}"], "row 2: age '250'"),
        ([f"001,female,Asian,25,{ADA}"] * 2, "row 3: path"),
    ],
)
def test_a_csv_that_disagrees_is_told_in_one_line(people, rows, told):
    root = people([ADA, BEA], csv=rows)
    with pytest.raises(UserError) as error:
        dataset.read_train(root)
    assert told in one_line(error)
    assert "train.csv" in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,gender,race,path\n", "no column 'age'"),
        ("", "cannot be read"),
        ("a,b\n1,2,3\n1,2,3,4\n", "train.csv"),
        ("\0\0", "train.csv"),
        (
            f"id,gender,race,age,path\n001,female,Asian,25,{ADA},more\n",
            "more fields than its first line",
        ),
        (f"id,Id,gender,race,age,path\n1,1,female,Asian,25,{ADA}\n", "several columns 'id'"),
        ("PK\3\4 and so on", "an Excel workbook"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_csv_that_is_none_is_told_in_one_line(people, text, told):
    root = people([ADA])
    (root / "train.csv").write_text(text)
    with pytest.raises(UserError) as error:
        dataset.read_train(root)
    assert told in one_line(error)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_csvs_as_excel_saves_them_are_read_and_the_encoding_said(
    people, capsys, encoding, separator
):
    person = "김_female_동양인_25"
    root = people([person])
    text = f"id,gender,race,age,path\n김,female,동양인,25.0,{person}\n,,,,\n"
    (root / "train.csv").write_text(text.replace(",", separator), encoding=encoding)
    assert set(dataset.read_train(root)["race"]) == {"동양인"}
    assert ("read as" in capsys.readouterr().out) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("ID,Gender,RACE,Age,Path", "1,female,Asian,25,{}"),
        (" id , gender , race , age , path ", "1 , female , Asian , 25 , {} "),
        (",path,age,race,gender,id", "0,{},25,Asian,female,1"),  # pandas' own index
        ("id,gender,race,age,path", "1,female,Asian,25,{},,"),
        ("id,gender,race,age,path,", "1,female,Asian,25,train/images/{}/"),
        ("sep=;\nid;gender;race;age;path", "1;female;Asian;25;images\\{}"),
        ('"id","gender","race","age","path"', '"1","female","Asian","25","{}"'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_and_scripts_make_of_train_csv_is_read(people, head, row, end):
    root = people([ADA, BEA])
    text = [head, row.format(ADA), row.format(BEA).replace("female", "male").replace("25", "60")]
    (root / "train.csv").write_text(end.join("\n".join(text).split("\n")), newline="")
    frame = dataset.read_train(root).drop_duplicates("person")
    assert frame[["person", "id", "gender", "age"]].to_numpy().tolist() == [
        [ADA, "1", 1, 25],
        [BEA, "1", 0, 60],
    ]


def test_a_csv_in_no_known_encoding_or_with_short_rows_is_told_in_one_line(people):
    root = people([ADA])
    for content in (
        b"id,gender,race,age,path\n\xff\xfe\xe9\n",
        "김,male\n".encode("cp949"),
        f"1,female,Asian,25,{ADA}\n".encode("utf-16-le"),
    ):
        (root / "train.csv").write_bytes(b"id,gender,race,age,path\n" + content)
        with pytest.raises(UserError) as error:
            dataset.read_train(root)
        assert "train.csv" in one_line(error)


# ------------------------------------------------------------------------------------------ names


def nfd(name):
    return unicodedata.normalize("NFD", name)


def test_korean_names_match_composed_or_decomposed(people, tmp_path):
    """macOS decomposes letters in file names; lists are typed composed, or the other way round."""
    person, other = "가나_male_Asian_30", "다라_female_Asian_60"
    rows = [f"가나,male,Asian,30,{person}", f"{nfd('다라')},female,Asian,60,{nfd(other)}"]
    root = people([nfd(person), other], csv=rows)
    (tmp_path / "c.csv").write_text(
        f"person,field,value\n{nfd(person)},gender,female\n가나,age,40\n"
    )
    frame = dataset.read_train(root, tmp_path / "c.csv")
    assert set(frame["person"]) == {person, other} and set(frame["age"]) == {40, 60}
    assert all(Path(path).is_file() for path in frame["path"])
    (tmp_path / "split.csv").write_text(f"person,fold\n{nfd(person)},0\n{nfd(other)},-1\n")
    assert read_split(tmp_path / "split.csv", frame)["person"].tolist() == [person, other]


def test_names_in_bytes_that_are_not_utf_8_are_refused_before_training(people):
    root = people([ADA])
    (root / "images" / ADA).rename(
        root / "images" / os.fsdecode("김_female_Asian_25".encode("cp949"))
    )
    with pytest.raises(UserError, match=r"김_female_Asian_25.*not UTF-8.*convmv"):
        dataset.read_train(root)


NAMES = [
    "사진.jpg",
    nfd("얼굴.jpg"),
    "김.jpg",
    " space.jpg",
    "-minus.jpg",
    "하위/b.jpg",
    "link.jpg",
]


def test_listed_photos_are_found_whatever_their_names_are_made_of(tmp_path, capsys):
    images = tmp_path / "eval" / "images"
    (images / nfd("하위")).mkdir(parents=True)
    (tmp_path / "far.jpg").touch()
    (images / "link.jpg").symlink_to(tmp_path / "far.jpg")
    cp949 = os.fsdecode("김.jpg".encode("cp949"))
    stored = [nfd("사진.jpg"), "얼굴.jpg", cp949, " space.jpg", "-minus.jpg", nfd("하위/b.jpg")]
    for name in [*stored, "other.webp"]:
        (images / name).touch()
    list_of = "\n".join(["ImageID,ans", *(f"{name},0" for name in NAMES)])
    (tmp_path / "eval" / "info.csv").write_text(list_of)
    frame = dataset.read_eval(tmp_path / "eval")
    assert frame["ImageID"].tolist() == [name.strip() for name in NAMES]
    assert [str(images / name) for name in [*stored, "link.jpg"]] == frame["path"].tolist()
    said = capsys.readouterr().out
    assert "photos that info.csv does not list (1, first other.webp)" in said

    (tmp_path / "eval" / "info.csv").unlink()
    every = dataset.read_eval(tmp_path / "eval", recursive=True)
    assert {"김.jpg", "link.jpg", "other.webp", nfd("하위/b.jpg")} < set(every["ImageID"])
    assert len(every) == 8


def test_ids_without_an_extension_name_the_only_photo_of_that_name(tmp_path):
    images = tmp_path / "eval" / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.v2.png", "sub/c.jpeg", "two.jpg", "two.png", "text.txt"):
        (images / name).touch()
    table = tmp_path / "eval" / "info.csv"
    table.write_text("ImageID,ans\na,0\nb.v2,0\nsub/c,0\n")
    frame = dataset.read_eval(tmp_path / "eval")
    assert frame["ImageID"].tolist() == ["a", "b.v2", "sub/c"]
    assert [Path(path).name for path in frame["path"]] == ["a.jpg", "b.v2.png", "c.jpeg"]
    table.write_text("ImageID,ans\na,0\ntwo,0\ntext,0\n")
    with pytest.raises(UserError, match=r"row 3: .*two does not exist; 2 listed photos are"):
        dataset.read_eval(tmp_path / "eval")


def test_lists_made_on_windows_name_the_same_files(tmp_path):
    images = tmp_path / "eval" / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.jpg", "B.jpg", "b.jpg", "sub/c.JPG"):
        (images / name).touch()
    table = tmp_path / "eval" / "info.csv"
    (images / "d.jpg").touch()
    names = ["A.JPG", "b.jpg", "sub\\C.jpg", "images/d.jpg"]
    table.write_text("image_id,ANS\n" + ",0\n".join(names) + ",0\n,\n\n,\n")
    frame = dataset.read_eval(tmp_path / "eval")
    assert frame["ImageID"].tolist() == names
    assert list(map(os.path.realpath, frame["path"])) == [
        str(images / name) for name in ("a.jpg", "b.jpg", "sub/c.JPG", "d.jpg")
    ]
    for name in ("B.JPG", "..\\..\\secret.jpg"):  # which of two; outside
        (tmp_path / "secret.jpg").touch()
        table.write_text(f"ImageID,ans\n{name},0\n")
        with pytest.raises(UserError, match="does not exist"):
            dataset.read_eval(tmp_path / "eval")


# ------------------------------------------------------------------------------- what is left out


def test_what_is_left_out_of_a_train_folder_is_counted_in_one_warning(people, capsys):
    files = ("mask1.HEIC", "mask2.webp", "mask3.avif", "mask4.jfif", "normal.txt", "selfie.jpg")
    root = people([ADA, BEA], files=files)
    people(["9_male_Asian_20"], files=())
    (root / "images" / "readme.txt").touch()
    (root / "images" / ADA / "more").mkdir()
    os.mkfifo(root / "images" / BEA / "mask5.jpg")
    (root / "images" / ADA / "more" / "incorrect_mask.png").touch()
    assert len(dataset.read_train(root)) == 8
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    for part in (
        "files that are not photos by their names (2, first ",
        "photos of other names",
        "subfolders that only --recursive reads (1",
        "people without photos (1, first 9_male_Asian_20)",
        "files outside the folders of people (1, first readme.txt)",
        "pipes and devices (1, first ",
    ):
        assert part in warning
    assert "incorrect_mask" in set(dataset.read_train(root, recursive=True)["photo"])


def test_recursive_finds_people_in_folders_of_folders(people, tmp_path):
    people([ADA], root=tmp_path / "train" / "images" / "1st")
    people([BEA], root=tmp_path / "train" / "images" / "2nd")
    with pytest.raises(UserError, match="--recursive"):
        dataset.read_train(tmp_path / "train")
    frame = dataset.read_train(tmp_path / "train", recursive=True)
    assert set(frame["person"]) == {ADA, BEA} and len(frame) == 14
    people([ADA], root=tmp_path / "train" / "images" / "2nd")
    with pytest.raises(UserError, match="the same person"):
        dataset.read_train(tmp_path / "train", recursive=True)


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("core.listing.os.scandir", refuse)
    for read in (dataset.read_train, dataset.read_eval):
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
            read(tmp_path)


def test_folders_without_people_or_photos_are_told(people, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        dataset.read_train(tmp_path / "empty")
    assert "no folders of people" in one_line(error)
    with pytest.raises(UserError) as error:
        dataset.read_train(people(["holiday"], root=tmp_path / "other"))
    assert "<id>_<gender>_<race>_<age>" in one_line(error)
    with pytest.raises(UserError) as error:
        dataset.read_train(people([ADA], files=()))
    assert "no photo found" in one_line(error)


# ------------------------------------------------------------------------------------ corrections


@pytest.fixture
def corrected(people, tmp_path):
    root = people([ADA, BEA, "003397_male_Asian_20", "003397_female_Asian_60"])

    def read(*rows, head="person,field,value,photo"):
        path = tmp_path / "corrections.csv"
        path.write_text("\n".join([head, *rows]) + "\n")
        return dataset.read_train(root, path).set_index(["person", "photo"])

    return read


def test_corrections_change_labels_by_folder_or_id(corrected):
    frame = corrected("001,gender,male,", f"{BEA},age,59,", "003397_male_Asian_20,age,60,")
    assert frame.loc[(ADA, "normal"), "label"] == 12
    assert set(frame.loc[BEA, "label"]) == {1, 7, 13}
    assert frame.loc[("003397_male_Asian_20", "mask1"), "label"] == 2
    assert frame.loc[("003397_female_Asian_60", "mask1"), "label"] == 5


def test_two_mask_rows_swap_two_photos_and_leave_the_rest(corrected):
    frame = corrected("001,mask,not wear,incorrect_mask", "001,mask,incorrect,normal.jpg")
    assert frame.loc[(ADA, "incorrect_mask"), "label"] == 15
    assert frame.loc[(ADA, "normal"), "label"] == 9
    assert frame.loc[(ADA, "mask1"), "label"] == 3
    assert frame.loc[(BEA, "normal"), "label"] == 14


def test_a_mask_may_be_given_as_the_photo_it_should_be(corrected):
    assert corrected("001,mask,mask1,normal").loc[(ADA, "normal"), "mask"] == 0


def test_the_photo_column_may_be_left_out(corrected):
    assert (
        corrected("001,gender,male", head="person,field,value").loc[(ADA, "mask1"), "gender"] == 0
    )
    assert corrected("001,gender,male").loc[(ADA, "mask1"), "gender"] == 0


def test_drop_rows_leave_out_people_and_photos(corrected, capsys):
    frame = corrected("001,drop,yes,", f"{BEA},drop,,normal", f"{BEA},age,20,")
    assert ADA not in frame.index
    assert len(frame.loc[BEA]) == 6 and set(frame.loc[BEA, "age"]) == {20}
    assert "leave out 8 photos; everything of 1 person" in capsys.readouterr().out
    assert len(corrected("001,drop", head="person,field,value")) == 21
    listed = corrected("001,yes,", f"{BEA},1,normal", "003397_male_Asian_20,0,", head=DROPS)
    assert len(listed) == 4 * 7 - 8


DROPS = "person,drop,photo"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["001,drop,no,"], "row 2: drop cannot be 'no'; it is yes"),
        (
            [
                f"{who},drop,yes,"
                for who in (ADA, BEA, "003397_male_Asian_20", "003397_female_Asian_60")
            ],
            "its drop rows leave no photo",
        ),
        (["001,colour,red,"], "row 2: field 'colour' is unknown"),
        (["001,gender,man,"], "row 2: gender cannot be 'man'"),
        (["001,age,old,"], "row 2: age cannot be 'old'"),
        (["001,age,121,"], "row 2: age cannot be '121'"),
        (["001,mask,half,normal"], "row 2: mask cannot be 'half'"),
        (["001,mask,wear,"], "row 2: a mask row names its photo"),
        (["001,gender,male,normal"], "row 2: a mask row names its photo"),
        (["001,age,20,", "003397,gender,male,"], "row 3: id '003397' belongs to"),
        (["001,age,20,", "001,age,21,"], "row 3: contradicts"),
        (["001,age,20,", f"{ADA},age,21,"], "row 3: contradicts"),
        (["001,mask,wear,normal", "001,mask,incorrect,normal.jpg"], "row 3: contradicts"),
    ],
)
def test_corrections_that_cannot_be_are_told_in_one_line(corrected, rows, told):
    with pytest.raises(UserError) as error:
        corrected(*rows)
    assert told in one_line(error)


def test_corrections_without_a_column_are_told(corrected):
    with pytest.raises(UserError) as error:
        corrected("001,age", head="person,field")
    assert "no column 'value'" in one_line(error)


def test_rows_that_match_nobody_are_counted_in_one_warning(corrected, capsys):
    frame = corrected("777,age,20,", "888,gender,male,", "001,age,20,", "001,mask,wear,mask9")
    assert capsys.readouterr().out.count("3 of 4 corrections match nobody here (first row 2,") == 1
    assert set(frame.loc[ADA, "age"]) == {20}


def test_the_same_row_twice_is_no_contradiction(corrected):
    assert set(corrected("001,age,20,", f"{ADA},age,20,").loc[ADA, "age"]) == {20}


# ----------------------------------------------------------------------------------------- splits

pytestmark = pytest.mark.filterwarnings(
    "ignore:The least populated class"
)  # of scikit-learn, on sets this small
AGES = st.lists(st.integers(18, 70), min_size=10, max_size=60)


@given(AGES, st.integers(0, 99), st.sampled_from([0.1, 0.2, 0.5]))
def test_split_never_shares_a_person(ages, seed, ratio):
    frame = make_frame(ages)
    split = split_people(frame, seed, val_ratio=ratio)
    assert sorted(split["person"]) == sorted(set(frame["person"]))
    assert (split["fold"] == 0).sum() == round(len(ages) * ratio)
    assert set(split["fold"]) == {-1, 0}


@given(AGES, st.integers(0, 99), st.sampled_from([2, 3, 5]))
def test_folds_hold_out_everybody_once(ages, seed, folds):
    split = split_people(make_frame(ages), seed, folds=folds)
    assert sorted(split["person"]) == sorted(set(make_frame(ages)["person"]))
    sizes = split["fold"].value_counts()
    assert sorted(sizes.index) == list(range(folds))


@given(AGES, st.randoms(use_true_random=False), st.sampled_from([None, 3]))
def test_split_is_independent_of_row_order(ages, random, folds):
    frame = make_frame(ages)
    order = list(range(len(frame)))
    random.shuffle(order)
    pd.testing.assert_frame_equal(
        split_people(frame, 5, folds=folds), split_people(frame.iloc[order], 5, folds=folds)
    )


def make_frame(ages) -> pd.DataFrame:
    """Two photos a person are enough to share one out."""
    people = [
        {"person": f"{number:03d}", "gender": number % 2, "age": age}
        for number, age in enumerate(ages)
    ]
    return pd.DataFrame(
        [{**person, "photo": photo} for person in people for photo in ("mask1", "normal")]
    )


@pytest.mark.parametrize("folds", [None, 5])
def test_split_is_stratified_by_gender_and_age_band(folds):
    frame = make_frame([20] * 50 + [45] * 30 + [60] * 20)
    held_out = split_people(frame, 1, folds=folds).query("fold == 0")["person"]
    people = frame.drop_duplicates("person").set_index("person").loc[held_out]
    counts = people.groupby(["gender", labels.age_band(people["age"])]).size()
    assert counts.tolist() == [5, 3, 2, 5, 3, 2]


def test_split_depends_on_the_seed():
    frame = make_frame([20, 45, 60] * 10)
    assert not split_people(frame, 1).equals(split_people(frame, 2))


def test_val_ratio_0_trains_on_everybody():
    assert set(split_people(make_frame([20, 60]), 1, val_ratio=0)["fold"]) == {-1}


@pytest.mark.parametrize("ages", [[20, 60], [20, 30, 60], [20, 40, 60, 61], [20] * 5])
def test_tiny_sets_are_split_too(ages):
    assert sorted(split_people(make_frame(ages), 1, val_ratio=0.5)["fold"].unique()) == [-1, 0]
    assert set(split_people(make_frame(ages), 1, folds=2)["fold"]) == {0, 1}


@pytest.mark.parametrize(
    ("people", "more"),
    [(2, {"val_ratio": 0.2}), (3, {"val_ratio": 0.9}), (3, {"folds": 4}), (3, {"folds": 1})],
)
def test_an_empty_part_is_an_error(people, more):
    with pytest.raises(UserError) as error:
        split_people(make_frame([20] * people), 1, **more)
    one_line(error)


def test_a_split_is_read_back_as_written(tmp_path):
    frame = make_frame([20, 45, 60] * 4)
    split = split_people(frame, 3, folds=3)
    write_split(split, tmp_path / "split.csv")
    pd.testing.assert_frame_equal(read_split(tmp_path / "split.csv", frame), split)
    part = frame[frame["person"] > "005"]
    assert set(read_split(tmp_path / "split.csv", part)["person"]) == set(part["person"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("person,fold\n000,0\n", "lacks 1 person of this data set, first '001'"),
        ("person,fold\n000,0\n001,x\n", "not a split"),
        ("person,fold\n000,0\n000,1\n001,1\n", "not a split"),
        ("person\n000\n", "no column 'fold'"),
    ],
)
def test_a_split_that_does_not_fit_is_told_in_one_line(tmp_path, text, told):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_split(tmp_path / "split.csv", make_frame([20, 30]))
    assert told in one_line(error)


# ------------------------------------------------------------------------------- photos to answer


@pytest.fixture
def asked(tmp_path):
    """An eval folder with b.jpg, a.png and c.JPG, and a file outside."""
    (tmp_path / "eval" / "images").mkdir(parents=True)
    for name in ("b.jpg", "a.png", "c.JPG", "._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "eval" / "images" / name).touch()
    (tmp_path / "secret.jpg").touch()

    def write(*names):
        (tmp_path / "eval" / "info.csv").write_text(
            "\n".join(["ImageID,ans", *(f"{name},0" for name in names)]) + "\n"
        )
        return tmp_path / "eval"

    return write


def test_photos_are_asked_in_the_order_of_info_csv(asked):
    folder = asked("c.JPG", "a.png", "b.jpg")
    frame = dataset.read_eval(folder)
    assert frame["ImageID"].tolist() == ["c.JPG", "a.png", "b.jpg"]
    assert [Path(path).name for path in frame["path"]] == frame["ImageID"].tolist()
    assert dataset.read_eval(folder / "images")["ImageID"].tolist() == ["c.JPG", "a.png", "b.jpg"]


def test_without_info_csv_every_image_is_asked_by_name(asked):
    folder = asked()
    (folder / "info.csv").unlink()
    assert dataset.read_eval(folder)["ImageID"].tolist() == ["a.png", "b.jpg", "c.JPG"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../../secret.jpg", "is not a file name inside"),
        ("{tmp}/secret.jpg", "is not a file name inside"),
        ("sub/../../../secret.jpg", "is not a file name inside"),
        ("", "is not a file name inside"),
        ("x" * 300, "does not exist"),
        ("가" * 200, "row 3"),
        ("d.jpg", "does not exist"),
        (".", "is not a file name inside"),
        ("b.jpg", "appears twice"),
        ("loop.jpg", "row 3"),
    ],
)
def test_image_ids_that_cannot_be_served_are_told_with_their_row(asked, tmp_path, name, told):
    folder = asked("b.jpg", name.format(tmp=tmp_path))
    (folder / "images" / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError) as error:
        dataset.read_eval(folder)
    assert told in one_line(error)
    assert "info.csv, row 3" in str(error.value)


def test_nothing_to_answer_is_told(asked, tmp_path):
    with pytest.raises(UserError) as error:
        dataset.read_eval(asked())
    assert "lists no photos" in one_line(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        dataset.read_eval(tmp_path / "empty")
    assert "holds no photos" in one_line(error)


# --------------------------------------------------------------------------------------- sampling


def test_thin_keeps_every_rare_photo(frame):
    whole = frame([20, 40, 60])
    thinned = thin(whole, 2, seed=1)
    assert (
        thinned.groupby(["person", "mask"]).size().unstack().to_numpy().tolist() == [[2, 1, 1]] * 3
    )
    assert thin(whole, None, 1).equals(whole)
    assert thin(whole, 9, 1).equals(whole)
    assert not thin(whole, 2, 2)["photo"].equals(thinned["photo"])
    whole.loc[whole["photo"].isin(["mask4", "mask5"]), "mask"] = 1  # put right by corrections
    assert (thin(whole, 1, 1)["mask"] == 1).sum() == 9


def test_sampling_weights_share_out_the_classes():
    labels = np.repeat([0, 6, 12], [16, 4, 1])
    assert sampling_weights(labels, "shuffle") is None
    for policy, shares in (("balanced", [1, 1, 1]), ("weighted", [4, 2, 1])):
        weights = sampling_weights(labels, policy)
        assert np.bincount(labels, weights)[[0, 6, 12]] == pytest.approx(
            np.array(shares) / sum(shares)
        )


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 9), st.booleans())
def test_ranks_share_out_the_whole_epoch(size, ranks, epoch, shuffle):
    parts = []
    for rank in range(ranks):
        sampler = EpochSampler(size, seed=3, shuffle=shuffle, rank=rank, ranks=ranks)
        sampler.epoch = epoch
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == -(-size // ranks)
    together = [item for step in zip(*parts, strict=True) for item in step]
    assert {number for number, _, _ in together} == {epoch}
    rows = [row for _, row, _ in together]
    assert sorted(rows[:size]) == list(range(size))
    assert rows[size:] == [rows[i % size] for i in range(len(rows) - size)]


@given(st.integers(1, 40), st.integers(1, 3), st.data())
def test_start_skips_what_was_had(size, ranks, data):
    sampler = EpochSampler(size, seed=1, ranks=ranks)
    whole = list(sampler)
    sampler.start = data.draw(st.integers(0, len(whole)))
    assert list(sampler) == whole[sampler.start :]
    assert len(sampler) == len(whole) - sampler.start


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, weights=None):
        sampler = EpochSampler(50, seed=seed, weights=weights)
        sampler.epoch = epoch
        return [row for _, row, _ in sampler]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    weights = np.full(50, 1 / 50)
    assert order(1, 2, weights) == order(1, 2, weights)
    assert order(1, 2, weights) != order(1, 3, weights)


def test_weights_decide_what_is_drawn():
    weights = np.array([0.9] + [0.1 / 99] * 99)
    rows = [row for _, row, _ in EpochSampler(100, weights=weights)]
    assert rows.count(0) > 70


def test_a_photo_drawn_again_is_augmented_anew(photos):
    weights = np.array([0.9, 0.1])
    keys = [key for key in EpochSampler(20, weights=np.resize(weights, 20) / 10) if key[1] == 0]
    data = Photos(photos(1), (16, 12), None, augmentation("default"), 5)
    seen = {data[key][0].tobytes() for key in keys}
    assert len(keys) > 1
    assert len(seen) == len(keys)


# ------------------------------------------------------------------------------------ the Dataset


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_augmentation_depends_on_seed_epoch_and_row_alone(photos, workers, cache):
    paths = photos(6)

    def served(keys, seed=5):
        data = Photos(paths, (16, 12), None, augmentation("default"), seed, cache=cache)
        loader = torch.utils.data.DataLoader(data, batch_size=2, sampler=keys, num_workers=workers)
        return {
            int(row): pixels.numpy()
            for batch, rows in loader
            for pixels, row in zip(batch, rows, strict=True)
        }

    keys = [(1, row) for row in range(6)]
    data = Photos(paths, (16, 12), None, augmentation("default"), 5)
    alone = {row: data[1, row][0] for row in range(6)}
    for order in (keys, keys[::-1]):
        seen = served(order)
        assert all(np.array_equal(seen[row], alone[row]) for row in range(6))
    for other in (served([(2, row) for row in range(6)]), served(keys, seed=6)):
        assert sum(np.array_equal(other[row], alone[row]) for row in range(6)) <= 1


def test_rows_of_one_photo_are_augmented_apart(photos):
    data = Photos(photos(1) * 8, (16, 12), None, augmentation("default"))
    assert len({data[0, row][0].tobytes() for row in range(8)}) > 6


def test_cache_gives_identical_pixels_and_reads_once(photos):
    paths = photos(3)
    for augment in (None, augmentation("default"), augmentation("winners")):
        plain, cached = (
            Photos(paths, (8, 6), (320, 256), augment, cache=cache) for cache in (False, True)
        )
        expected = [plain[epoch, row][0] for epoch in range(3) for row in range(3)]
        assert all(
            np.array_equal(cached[i // 3, i % 3][0], pixels) for i, pixels in enumerate(expected)
        )
    for path in paths:
        path.rename(path.with_suffix(".gone"))
    assert np.array_equal(cached[2, 2][0], expected[-1])


def test_the_cache_is_shared_by_forked_workers(photos):
    paths = photos(4)
    data = Photos(paths, (8, 6), None, cache=True)
    list(
        torch.utils.data.DataLoader(
            data,
            sampler=[(0, row) for row in range(4)],
            num_workers=2,
            multiprocessing_context="fork",
        )
    )
    for path in paths:
        path.unlink()
    assert [data[0, row][0].shape for row in range(4)] == [(8, 6, 3)] * 4


def test_a_broken_photo_raises_or_is_marked(photos, tmp_path):
    (tmp_path / "broken.jpg").write_text("no photo")
    paths = [*photos(1), tmp_path / "broken.jpg"]
    with pytest.raises(PhotoError):
        Photos(paths, (8, 6), None)[0, 1]
    marked = Photos(paths, (8, 6), None, augmentation("default"), mark_errors=True, cache=True)
    pixels, row = marked[0, 1]
    assert (row, pixels.shape, pixels.max()) == (-2, (8, 6, 3), 0)
    assert marked[0, 0][1] == 0


def test_the_name_of_a_broken_photo_crosses_from_a_worker(photos, tmp_path):
    (tmp_path / "broken.jpg").touch()
    data = Photos([tmp_path / "broken.jpg"], (8, 6), None)
    with pytest.raises(Exception, match=r"broken\.jpg: an empty file"):
        list(torch.utils.data.DataLoader(data, sampler=[(0, 0)], num_workers=1))


def test_pixel_statistics_are_those_of_all_pixels(photos):
    paths = photos(5)
    mean, std = dataset.pixel_statistics(paths, (16, 12), None)
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    assert mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert std == pytest.approx(pixels.std((0, 1, 2)))
    cropped = np.stack([load_photo(path, (8, 6), (256, 192)) for path in paths]) / 255
    assert dataset.pixel_statistics(paths, (8, 6), (256, 192))[1] == pytest.approx(
        cropped.std((0, 1, 2))
    )


def test_check_photos_names_what_cannot_be_used(photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    paths = [*photos(3), tmp_path / "empty.jpg", tmp_path / "gone.jpg"]
    told = [(error.path.name, error.reason) for error in dataset.check_photos(paths)]
    assert told == [("empty.jpg", "an empty file"), ("gone.jpg", "does not exist")]
