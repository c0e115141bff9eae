import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, f1_score

from core import metrics
from core.labels import CLASSES, decode
from training.split import sampling_weights

some_classes = st.integers(1, CLASSES).flatmap(lambda classes: st.integers(0, classes - 1))
pairs = st.lists(st.tuples(some_classes, some_classes), min_size=1, max_size=60).map(
    lambda rows: np.array(rows).T
)


def random_case(people=40, photos=7, right=0.7, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=people * photos)
    ans = np.where(
        generator.random(len(labels)) < right, labels, generator.integers(CLASSES, size=len(labels))
    )
    return labels, ans, np.repeat([f"person {number}" for number in range(people)], photos)


# ---------------------------------------------------------------------------- scores


@given(pairs)
def test_macro_f1_is_scikit_learns(pair):
    labels, ans = pair
    assert metrics.score(labels, ans)["macro_f1"] == pytest.approx(
        f1_score(labels, ans, average="macro")
    )


@given(pairs)
def test_f1_by_class_is_scikit_learns_and_nan_for_absent_classes(pair):
    labels, ans = pair
    ours, present = metrics.per_class_f1(labels, ans), np.union1d(labels, ans)
    assert ours[present] == pytest.approx(f1_score(labels, ans, average=None, labels=present))
    assert np.isnan(np.delete(ours, present)).all()


@given(pairs)
def test_confusion_is_scikit_learns(pair):
    assert np.array_equal(metrics.confusion(*pair), confusion_matrix(*pair, labels=range(CLASSES)))


@given(pairs)
def test_accuracy_is_at_most_that_of_each_attribute(pair):
    scores = metrics.score(*pair)
    assert scores["accuracy"] <= min(scores["mask"], scores["gender"], scores["age"])
    assert all(type(value) is float and 0 <= value <= 1 for value in scores.values())


def test_attributes_are_scored_separately():
    # wear male <30 as incorrect male <30, and not wear female 60+ as not wear female 30-59
    assert metrics.score([0, 17], [6, 16]) == {
        "macro_f1": 0,
        "accuracy": 0,
        "mask": 0.5,
        "gender": 1,
        "age": 0.5,
    }


@pytest.mark.parametrize(
    ("labels", "ans"),
    [([0, 1], [0]), ([], []), ([0], [18]), ([-1], [0]), ([0.0], [0]), ([[0]], [[0]])],
)
def test_what_is_no_row_of_classes_is_refused(labels, ans):
    with pytest.raises(ValueError):
        metrics.score(labels, ans)


# ---------------------------------------------------------------------------- uncertainty


def test_bootstrap_scores_resamples_of_people_as_scikit_learn_would():
    labels, ans, person = random_case(people=12)
    scores = metrics._resample(labels, [ans], person, repeats=5, seed=3)[:, 0]
    generator = np.random.default_rng(3)
    for score in scores:
        drawn = generator.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(person == np.unique(person)[who]) for who in drawn])
        assert score == pytest.approx(f1_score(labels[rows], ans[rows], average="macro"))


def test_bootstrap_interval_holds_the_score_and_depends_on_the_seed_alone():
    case = random_case(people=200)
    low, high = metrics.bootstrap(*case, repeats=200, seed=1)
    assert low < metrics.macro_f1(*case[:2]) < high
    assert (
        (low, high)
        == metrics.bootstrap(*case, repeats=200, seed=1)
        != metrics.bootstrap(*case, repeats=200, seed=2)
    )


def test_bootstrap_interval_is_wider_for_people_than_for_photos():
    generator = np.random.default_rng(0)
    person = np.repeat(np.arange(100), 7)
    labels = generator.integers(CLASSES, size=len(person))
    ans = np.where(
        generator.random(100)[person] < 0.7, labels, (labels + 1) % CLASSES
    )  # a face is read well in all photos or in none
    of_people, of_photos = (
        metrics.bootstrap(labels, ans, who, repeats=300) for who in (person, np.arange(len(person)))
    )
    assert of_people[1] - of_people[0] > 1.5 * (of_photos[1] - of_photos[0])


def test_paired_bootstrap_tells_the_better_one():
    labels, worse, person = random_case(right=0.6, seed=1)
    better = np.where(np.arange(len(labels)) % 5 == 0, labels, worse)
    result = metrics.paired_bootstrap(labels, better, worse, person, repeats=200)
    assert 0 < result["low"] < result["difference"] < result["high"] and result["share"] == 1
    swapped = metrics.paired_bootstrap(labels, worse, better, person, repeats=200)
    assert swapped["difference"] == pytest.approx(-result["difference"]) and swapped["share"] == 0


def test_paired_bootstrap_of_the_same_answers_is_no_win():
    labels, ans, person = random_case()
    assert metrics.paired_bootstrap(labels, ans, ans, person, repeats=20) == {
        "difference": 0,
        "low": 0,
        "high": 0,
        "share": 0,
    }


def test_bootstrap_refuses_persons_of_other_photos():
    with pytest.raises(ValueError, match="2 labels but 1 persons"):
        metrics.bootstrap([0, 1], [0, 1], ["a"])
    with pytest.raises(ValueError, match="2 labels but 1 predictions"):
        metrics.bootstrap([0, 1], [0], ["a", "b"])


# ---------------------------------------------------------------------------- decision offsets
def test_equally_frequent_classes_get_no_offsets():
    assert np.allclose(metrics.frequency_offsets(decode(np.arange(CLASSES).repeat(4))), 0)


def test_frequency_offsets_are_a_share_of_the_log_ratio_of_the_counts():
    labels = np.repeat([0, 1, 2], [90, 90, 10])  # young, middle-aged and old men with a mask
    offsets = metrics.frequency_offsets(decode(labels), share=0.5)
    assert offsets[1] == pytest.approx(offsets[0])
    for rare in (2, 17):  # whatever the mask and gender
        assert offsets[rare] - offsets[rare - 1] == pytest.approx(0.5 * np.log(9))
    assert np.isfinite(offsets).all()
    assert metrics.frequency_offsets(decode(labels), share=1.0) == pytest.approx(2 * offsets)


def test_frequency_offsets_follow_the_sampling():
    labels = np.arange(CLASSES).repeat(np.arange(1, CLASSES + 1))
    shuffle, weighted, balanced = (
        metrics.frequency_offsets(decode(labels), sampling_weights(labels, policy))
        for policy in ("shuffle", "weighted", "balanced")
    )
    assert np.allclose(balanced, 0, atol=1e-6)
    assert 0 < weighted[0] < shuffle[0]


def shifted_case(seed=0, photos=1500, shift=1.5):
    """log-probabilities of a model that is reluctant to predict the third age band"""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=photos)
    scores = generator.normal(size=(photos, CLASSES)) + 2.5 * np.eye(CLASSES)[labels]
    scores[:, decode(np.arange(CLASSES))[2] == 2] -= shift
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), labels


def test_offsets_undo_a_bias_and_help_on_other_photos():
    offsets = metrics.tune_offsets(*shifted_case(seed=0))
    scores, labels = shifted_case(seed=1)
    assert (
        metrics.macro_f1(labels, (scores + offsets).argmax(axis=1))
        > metrics.macro_f1(labels, scores.argmax(axis=1)) + 0.03
    )


def test_offsets_are_a_sum_over_the_attributes():
    offsets = metrics.tune_offsets(*shifted_case())
    table = np.empty((3, 2, 3))
    table[decode(np.arange(CLASSES))] = offsets
    parts = [table.mean(axis=axes, keepdims=True) for axes in ((1, 2), (0, 2), (0, 1))]
    assert offsets.shape == (CLASSES,) and offsets.any()
    assert np.allclose(table, sum(parts) - 2 * table.mean())


def test_offsets_stay_zero_where_nothing_is_gained():
    labels = np.arange(CLASSES).repeat(3)
    assert not metrics.tune_offsets(np.log(np.eye(CLASSES)[labels] + 0.01), labels).any()
    assert not metrics.tune_offsets(*shifted_case(), tolerance=1.0).any()


@settings(max_examples=30, deadline=None)
@given(
    arrays(float, (12, CLASSES), elements=st.floats(-20, 0)),
    arrays(int, 12, elements=st.integers(0, CLASSES - 1)),
)
def test_offsets_never_lose_on_the_photos_tuned_on(scores, labels):
    offsets = metrics.tune_offsets(scores, labels)
    before, after = (
        metrics.macro_f1(labels, (scores + extra).argmax(axis=1)) for extra in (0, offsets)
    )
    assert after > before + 5e-4 or not offsets.any()
    assert np.array_equal(offsets, metrics.tune_offsets(scores, labels))


def test_offsets_leave_the_log_probabilities_alone():
    scores, labels = shifted_case()
    before = scores.copy()
    metrics.tune_offsets(scores, labels)
    assert np.array_equal(scores, before)


@pytest.mark.parametrize(
    "scores", [np.zeros((2, 17)), np.zeros((3, CLASSES)), np.full((2, CLASSES), -np.inf)]
)
def test_offsets_refuse_other_shapes_and_infinities(scores):
    with pytest.raises(ValueError):
        metrics.tune_offsets(scores, [0, 1])
