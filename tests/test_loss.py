import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import loss
from core.errors import UserError
from loss import create_criterion

NAMES = tuple(loss.CRITERIA)
LABELS = st.lists(st.integers(0, 17), min_size=1, max_size=40)


def batch(size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 18, generator=generator), torch.randint(
        0, 18, (size,), generator=generator
    )


@given(LABELS, st.integers(0, 99))
def test_f1_of_decisions_is_the_macro_f1_over_the_classes_present(labels, seed):
    target = np.array(labels)
    decided = np.random.default_rng(seed).integers(0, 18, len(target))
    logits = 1e4 * F.one_hot(torch.tensor(decided), 18).float()
    expected = f1_score(target, decided, labels=np.unique(target), average="macro", zero_division=0)
    assert create_criterion("f1")(logits, torch.tensor(target)).item() == pytest.approx(
        1 - expected, abs=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_targets_equal_class_indices(name):
    logits, target = batch()
    hard, soft = (
        create_criterion(name)(logits, given).item()
        for given in (target, F.one_hot(target, 18).float())
    )
    assert hard == pytest.approx(soft)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_a_scalar_that_falls_with_its_gradient(name):
    logits, target = batch()
    logits.requires_grad_()
    criterion = create_criterion(name)
    before = criterion(logits, target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert before.ndim == 0
    assert torch.isfinite(gradient).all()
    assert criterion((logits - gradient / gradient.norm()).detach(), target) < before


def test_smoothing_is_applied():
    logits, target = batch()
    log_p = logits.log_softmax(1)
    expected = -(0.8 * log_p[range(16), target] + 0.2 * log_p.mean(1)).mean()
    assert create_criterion("label_smoothing", smoothing=0.2)(
        logits, target
    ).item() == pytest.approx(expected.item())
    assert create_criterion("cross_entropy", smoothing=0.2)(logits, target).item() == pytest.approx(
        F.cross_entropy(logits, target).item()
    )


def test_focal_without_gamma_is_cross_entropy_and_with_it_looks_away_from_the_easy():
    logits, target = batch()
    assert create_criterion("focal", gamma=0.0)(logits, target).item() == pytest.approx(
        F.cross_entropy(logits, target).item()
    )
    easy = 3 * F.one_hot(target, 18).float()
    p = easy.softmax(1)[0, target[0]].item()
    assert create_criterion("focal", gamma=2.0)(easy, target).item() == pytest.approx(
        (1 - p) ** 2 * -np.log(p), rel=1e-4
    )


def test_the_share_mixes_f1_and_cross_entropy():
    logits, target = batch()
    f1, entropy = (
        create_criterion("f1")(logits, target),
        F.cross_entropy(logits, target, label_smoothing=0.1),
    )
    for share in (0.0, 0.3, 1.0):
        mixed = create_criterion("cross_entropy_f1", f1_share=share, smoothing=0.1)(logits, target)
        assert mixed.item() == pytest.approx((share * f1 + (1 - share) * entropy).item())


def test_f1_of_a_right_batch_of_16_falls_to_0_and_that_of_the_winners_cannot():
    target = torch.tensor(
        [0, 0, 0, 1, 1, 3, 3, 3, 4, 4, 4, 6, 9, 10, 12, 15]
    )  # 9 of the 18 classes
    logits = 100 * F.one_hot(target, 18).float()
    assert create_criterion("f1")(logits, target) < 1e-4
    assert create_criterion("f1_winners")(logits, target).item() == pytest.approx(0.5, abs=1e-3)


@given(st.integers(0, 99))
def test_the_winners_f1_cannot_fall_below_the_share_of_absent_classes(seed):
    logits, target = batch(16, seed)
    target = target % 10
    for answer in (logits, 100 * F.one_hot(target, 18).float()):
        assert create_criterion("f1_winners")(answer, target) > 0.4


def test_absent_classes_weigh_nothing():
    logits, target = batch()
    target = target % 3
    f1 = [
        2 * (p * t).sum() / (p + t).sum()
        for p, t in zip(logits.softmax(1).T, F.one_hot(target, 18).T, strict=True)
    ][:3]
    assert create_criterion("f1")(logits, target).item() == pytest.approx(
        1 - torch.stack(f1).mean().item(), rel=1e-5
    )


def test_memory_carries_the_counts_of_earlier_batches():
    (first, first_target), (second, second_target) = batch(8, 1), batch(8, 2)
    criterion = create_criterion("f1", memory=1.0)
    assert criterion(first, first_target).item() == pytest.approx(
        create_criterion("f1")(first, first_target).item()
    )
    together = create_criterion("f1")(
        torch.cat([first, second]), torch.cat([first_target, second_target])
    )
    assert criterion(second, second_target).item() == pytest.approx(together.item())
    plain = create_criterion("f1")
    plain(first, first_target)
    assert plain(second, second_target).item() != pytest.approx(together.item())


def test_memory_takes_no_gradient_from_earlier_batches_and_learns_nothing_in_eval():
    criterion = create_criterion("f1", memory=0.9)
    first, target = batch(8, 1)
    first.requires_grad_()
    criterion(first, target)
    kept = criterion.counts.clone()
    second, _ = batch(8, 2)
    second.requires_grad_()
    criterion(second, target).backward()
    assert first.grad is None
    assert second.grad.abs().sum() > 0
    kept = criterion.counts.clone()
    criterion.eval()
    criterion(second, target)
    assert torch.equal(criterion.counts, kept)


def test_half_precision_scores_do_not_overflow():
    logits, target = batch()
    for name in NAMES:
        assert torch.isfinite(create_criterion(name)((100 * logits).bfloat16(), target))


def test_years_target_is_a_distribution_around_the_age():
    target = loss.years_target(torch.tensor([0, 30, 99]), 100, 3.0)
    assert target.shape == (3, 100)
    assert target.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert target.argmax(1).tolist() == [0, 30, 99]
    assert (target[1, 33] / target[1, 30]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert (target[1] * torch.arange(100)).sum().item() == pytest.approx(30, abs=1e-3)


def test_years_loss_is_least_at_the_target():
    ages = torch.tensor([30, 45])
    target = loss.years_target(ages, 100, 3.0)
    logits = target.log().clamp(min=-100)
    least = loss.years_loss(logits, ages, ages, 3.0)
    assert least.tolist() == pytest.approx((-(target * logits).sum(1)).tolist(), rel=1e-4)
    assert (loss.years_loss(logits.flip(0), ages, ages, 3.0) > least + 1).all()


def test_an_age_range_is_right_for_every_prediction_in_it():
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    youngest, oldest = torch.tensor([60, 20, 0]), torch.tensor([99, 29, 99])
    p = logits.softmax(1)
    expected = [-p[0, 60:].sum().log().item(), -p[1, 20:30].sum().log().item(), 0]
    found = loss.years_loss(logits, youngest, oldest, 3.0)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    logits[0, 75] = logits[1, 29] = 50.0
    assert loss.years_loss(logits, youngest, oldest, 3.0).max() < 1e-3


@given(st.integers(0, 2**32 - 1), st.integers(1, 18))
def test_the_gradient_for_possible_classes_is_that_of_their_likelihood(seed, count):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 18, generator=generator, requires_grad=True)
    possible = torch.zeros(4, 18, dtype=torch.bool)
    for row in possible:
        row[torch.randperm(18, generator=generator)[:count]] = True
    likelihood = scores.log_softmax(1).masked_fill(~possible, -torch.inf).logsumexp(1)
    (expected,) = torch.autograd.grad(-likelihood.mean(), scores)
    (found,) = torch.autograd.grad(
        create_criterion("cross_entropy")(scores, loss.completed(possible, scores)), scores
    )
    assert torch.allclose(found, expected, atol=1e-6)


def test_an_unknown_loss_names_the_known():
    with pytest.raises(UserError, match=r"'hinge'.*focal"):
        create_criterion("hinge")
