import random

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from training import augmentation


@pytest.fixture
def smooth():
    """A smooth gradient (64, 48, 3), more red to the right, more green downwards."""
    y, x = np.mgrid[0:64, 0:48]
    return np.stack([x * 255 // 47, y * 255 // 63, np.full_like(x, 40)], -1).astype(np.uint8)


NAMES = [name for name in augmentation.AUGMENTATIONS if name != "none"]


@pytest.mark.parametrize("name", [*NAMES, "rand-m5-n3", "3a", "rand-m9-mstdinf"])
def test_augmentation_changes_photos_and_keeps_their_form(name, smooth):
    augment = augmentation.augmentation(name)
    before, generator = smooth.copy(), np.random.default_rng(1)
    seen = [augment(smooth, generator) for _ in range(8)]
    assert all(pixels.shape == smooth.shape and pixels.dtype == np.uint8 for pixels in seen)
    assert len({pixels.tobytes() for pixels in seen}) > 4
    assert np.array_equal(smooth, before)


@pytest.mark.parametrize("name", ["rand-m10-n15", "rand-m10-n15-inc1", "autoaugment", "augmix-m10"])
def test_a_policy_at_its_highest_magnitude_changes_any_photo(name):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    augment = augmentation.augmentation(name, size=(16, 12))
    for seed in range(60):
        assert augment(pixels, np.random.default_rng(seed)).shape == pixels.shape


@pytest.mark.parametrize("name", ["default", "randaugment", "augmix"])
def test_augmentation_is_a_function_of_its_seed_and_leaves_other_randomness_alone(name, smooth):
    augment = augmentation.augmentation(name)
    before = random.getstate(), np.random.get_state()[1].tolist()
    seen = []
    for seed in (1, 2, 1):
        seen.append(augment(smooth, np.random.default_rng(seed)).tobytes())
    assert seen[0] == seen[2] != seen[1]
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("kind", ["yaml", "json"])
@pytest.mark.parametrize(
    "steps",
    [
        A.Compose([A.HorizontalFlip(p=1)]),
        A.HorizontalFlip(p=1),
        A.OneOf([A.HorizontalFlip(p=1)], p=1),
    ],
)
def test_an_augmentation_of_ones_own_is_read_from_albumentations_file(
    tmp_path, smooth, kind, steps
):
    A.save(steps, tmp_path / f"my.{kind}", data_format=kind)
    augment = augmentation.augmentation(str(tmp_path / f"my.{kind}"), size=(64, 48))
    assert np.array_equal(augment(smooth, np.random.default_rng(1)), smooth[:, ::-1])


@pytest.mark.parametrize("name", ["mild", "default", "clahe"])
def test_whether_a_step_is_applied_does_not_depend_on_the_other_steps(name, smooth):
    """One seed for all of them is easily had: then each flipped photo is grey, blurred, erased."""
    compose = augmentation.augmentation(name).compose
    compose.save_applied_params = True
    names, applied = [type(step).__name__ for step in compose.transforms], []

    class Recording:
        set_random_state = compose.set_random_state

        def __call__(self, image):
            done = compose(image=image)
            steps = {step for step, _ in done["applied_transforms"]}
            applied.append([step in steps for step in names])
            return done

    augment = augmentation.Steps(Recording())
    for seed in range(1500):
        augment(smooth, np.random.default_rng(seed))
    correlation = np.corrcoef(np.array(applied, float).T)
    assert np.abs(correlation - np.eye(len(names))).max() < 0.12


@pytest.mark.parametrize("always", ["true", "false"])
def test_a_file_of_albumentations_1_is_read(tmp_path, smooth, always):
    flip = f"{{__class_fullname__: HorizontalFlip, always_apply: {always}, p: 0.0}}"
    move = "{__class_fullname__: ShiftScaleRotate, always_apply: false, p: 0.0, rotate_limit: 5}"
    path = tmp_path / "my.yaml"
    path.write_text(
        f"transform: {{__class_fullname__: Compose, p: 1.0, transforms: [{flip}, {move}]}}"
    )
    augment = augmentation.augmentation(str(path), size=(64, 48))
    expected = smooth[:, ::-1] if always == "true" else smooth
    assert np.array_equal(augment(smooth, np.random.default_rng(0)), expected)


@pytest.mark.parametrize("step", [A.RGBShift(p=1), A.SafeRotate(p=1), A.PadIfNeeded(64, 48, p=1)])
def test_what_albumentations_saves_is_read_though_it_writes_arguments_it_does_not_take(
    tmp_path, smooth, step
):
    path = tmp_path / "my.yaml"
    A.save(A.Compose([A.OneOf([step], p=1)]), path, data_format="yaml")
    augment = augmentation.augmentation(str(path), size=(64, 48))
    seen = augment(smooth, np.random.default_rng(0))
    assert np.array_equal(seen, smooth) == isinstance(step, A.PadIfNeeded)
    path.write_text(path.read_text().replace("      p: 1.0\n", "      p: 1.0\n      much: 3\n"))
    with pytest.raises(UserError, match="much"):
        augmentation.augmentation(str(path), size=(64, 48))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (A.Compose([A.Resize(8, 8)]), "changes the photo's size or type"),
        (A.Compose([A.Normalize()]), "changes the photo's size or type"),
        (A.Compose([A.RandomCrop(300, 300)]), "cannot be used"),
        ("transform: [", "cannot be used"),
        ("- 1", "cannot be used"),
        ("{}", "has no 'transform'"),
        ("transform: {__class_fullname__: Explode, p: 1.0}", "has no 'Explode'"),
        ("transform: {__class_fullname__: HorizontalFlip, p: 1.0, much: 3}", "much"),
        ("transform: {__class_fullname__: HorizontalFlip}", "has no 'p'"),
        (
            "transform: {__class_fullname__: os.system, command: touch HACKED, p: 1.0}",
            "has no 'os.system'",
        ),
        ("!!python/object/apply:os.system ['touch HACKED']", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_training_and_runs_nothing(
    tmp_path, monkeypatch, text, told
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    if isinstance(text, str):
        path.write_text(text)
    else:
        A.save(text, path, data_format="yaml")
    with pytest.raises(UserError) as error:
        augmentation.augmentation(str(path), size=(64, 48))
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "HACKED").exists()


def test_the_winners_change_colours_only(smooth):
    augment = augmentation.augmentation("winners")
    pixels = augment(smooth, np.random.default_rng(3)).astype(int)
    assert np.abs(pixels - smooth).mean() < 40
    flat = augment(np.full((9, 9, 3), 90, np.uint8), np.random.default_rng(3))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_names_of_the_competitions_code_are_known():
    assert augmentation.augmentation("BaseAugmentation") is None
    steps = augmentation.augmentation("CustomAugmentation").compose.transforms
    assert [type(step).__name__ for step in steps] == ["ColorJitter"]


def test_an_unknown_augmentation_names_the_known():
    with pytest.raises(UserError, match=r"'wild'.*winners.*default"):
        augmentation.augmentation("wild")
    with pytest.raises(UserError, match="timm knows no such policy"):
        augmentation.augmentation("rand-z9")
    with pytest.raises(UserError, match=r"gone\.yaml: does not exist"):
        augmentation.augmentation("gone.yaml")


# ---------------------------------------------------------------------------- mixing


@given(st.lists(st.integers(0, 2), min_size=1, max_size=32), st.integers(0, 99))
def test_partners_share_the_mask_state_and_are_others_where_there_are(masks, seed):
    masks = np.array(masks)
    order = augmentation.partners(masks, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(masks)))
    assert (masks[order] == masks).all()
    alone = np.array([(masks == mask).sum() == 1 for mask in masks])
    assert ((order == np.arange(len(masks))) == alone).all()


def test_half_face_keeps_one_half_and_takes_the_other():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 4, 6)
    mixed = augmentation.half_face(
        images, torch.tensor([1, 2, 0]), torch.tensor([True, False, True])
    )
    assert mixed[:, 0, 0].tolist() == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 1, 1, 1], [2, 2, 2, 0, 0, 0]]
    assert mixed.shape == images.shape


@given(st.integers(0, 99))
def test_cutmix_takes_a_box_of_the_partner_and_tells_its_share(seed):
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 10, 8)
    order = torch.tensor([1, 2, 0])
    mixed, share = augmentation.cutmix(images, order, np.random.default_rng(seed))
    own = (mixed == images).float().mean((1, 2, 3))
    assert torch.allclose(own, torch.full((3,), share))
    taken = (mixed[0, 0] != 0).nonzero()
    if len(taken):
        (top, left), (bottom, right) = taken.amin(0).tolist(), taken.amax(0).tolist()
        assert len(taken) == (bottom - top + 1) * (right - left + 1)
