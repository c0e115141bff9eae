import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file

import model
from core import backbone, device, labels
from core.errors import UserError
from model import FactoredHead, MaskClassifier, YearsHead
from prediction import fold_batch_norms, model_file, tta
from prediction.model_file import load_model, read_description, save_model
from prediction.predict import predict

METADATA = {"crop": [448, 336], "bands": [29, 57], "macro_f1": 0.5, "drawn": True}
ARCHITECTURES = ("test_efficientnet", "test_resnet", "test_vit")


def tiny(architecture="test_efficientnet", head="factored", resize=(32, 32), **more):
    torch.manual_seed(0)
    return MaskClassifier(architecture, head, resize, **{**METADATA, **more}).eval()


def images(count=3, resize=(32, 32)):
    return torch.randint(
        0, 256, (count, 3, *resize), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


# ---------------------------------------------------------------------------- heads


@given(st.integers(0, 17))
def test_factored_scores_are_sums_in_the_order_of_the_labels(label):
    mask, gender, age = (
        torch.tensor([[1.0, 2, 3]]),
        torch.tensor([[10.0, 20]]),
        torch.tensor([[100.0, 200, 300]]),
    )
    m, g, a = labels.decode(label)
    assert FactoredHead.join(mask, gender, age)[0, label] == mask[0, m] + gender[0, g] + age[0, a]


def test_factored_probabilities_are_products():
    head = FactoredHead(8)
    features = torch.randn(4, 8)
    joint = head(features).softmax(1).view(4, 3, 2, 3)
    for axes, part in (((2, 3), head.mask), ((1, 3), head.gender), ((1, 2), head.age)):
        assert torch.allclose(joint.sum(axes), part(features).softmax(1), atol=1e-6)


def test_years_scores_are_the_shares_of_the_bands():
    head = YearsHead(8, (29, 57))
    features = torch.randn(4, 8)
    years = head.age(features).softmax(1)
    for training, (low, high) in ((True, (29, 57)), (False, (30, 60))):
        head.train(training)
        bands = head(features).softmax(1).view(4, 3, 2, 3).sum((1, 2))
        shares = torch.stack(
            [years[:, :low].sum(1), years[:, low:high].sum(1), years[:, high:].sum(1)], 1
        )
        assert torch.allclose(bands, shares, atol=1e-6)


@pytest.mark.parametrize("head", model.HEADS)
def test_years_are_returned_where_they_are_asked_for(head):
    classifier = tiny(head=head).train()
    scores, years = classifier(images(2), return_years=True)
    assert scores.shape == (2, 18)
    assert years.shape == (2, model.YEARS) if head == "years" else years is None


# ---------------------------------------------------------------------------- the model


@pytest.mark.parametrize("head", model.HEADS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_gives_18_float32_scores(architecture, head):
    model = tiny(architecture, head, (48, 32) if architecture != "test_vit" else (64, 48))
    size = model.description["resize"]
    for photos in (images(2, size), images(2, size).float()):
        scores = model(photos)
        assert (scores.shape, scores.dtype) == ((2, 18), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images(2, size)).dtype == torch.float32


def test_the_model_normalises_with_its_own_statistics():
    seen = []
    model = tiny(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.2])
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    photos = images()
    model(photos)
    expected = (photos / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.25, 0.2]
    ).view(3, 1, 1)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_offsets_move_the_answers():
    model = tiny()
    before = model.log_probabilities(images())
    assert torch.allclose(before.exp().sum(1), torch.ones(3))
    model.offsets[7] = 50.0
    after = model.log_probabilities(images())
    assert after.argmax(1).tolist() == [7, 7, 7]
    assert torch.allclose(after.exp().sum(1), torch.ones(3))


def test_the_predicted_age_is_the_mean_of_the_years():
    model = tiny(head="years").eval()
    with torch.no_grad():
        model.head.age.bias[[20, 40]] = 50.0
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    pixels[:, :, :16] = 200
    both = [view.permute(0, 3, 1, 2).float() for view in (pixels, pixels.flip(2))]
    each = torch.cat([model.log_probabilities_and_age(view) for view in both])
    assert torch.equal(each[:1, :18], model.log_probabilities(both[0]))
    assert torch.allclose(each[:, 18], torch.tensor(30.0), atol=0.5)
    loader, fabric = [(pixels, torch.tensor([0]))], Fabric(accelerator="cpu", devices=1)
    predictions = predict(model, loader, 1, fabric, False, views=["flip"], ages=True)
    assert predictions[0, 18] == pytest.approx(each[:, 18].mean().item(), abs=1e-4)
    assert np.exp(predictions[0, :18]).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("architecture", "more", "told"),
    [
        ("resnet_50000", {}, "has no model 'resnet_50000'; near are"),
        ("", {}, "has no model"),
        ("test_resnet", {"nonsense": 1}, "nonsense"),
        ("test_resnet", {"num_classes": 2}, "num_classes"),
        ("test_resnet", {"act_layer": "nonsense"}, "test_resnet"),
        ("test_vit", {"patch_size": 0}, "test_vit"),
        ("test_vit", {"embed_dim": 7}, "test_vit"),
        ("test_resnet", {"in_chans": -1}, "test_resnet"),
    ],
)
def test_a_model_that_cannot_be_made_is_told_in_one_line(architecture, more, told):
    with pytest.raises(UserError) as error:
        tiny(architecture, model_kwargs=more)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_model_kwargs_reach_timm():
    assert (
        tiny("test_vit", model_kwargs={"embed_dim": 32, "num_heads": 1}).head.mask.in_features == 32
    )


# ---------------------------------------------------------------------------- the model file


@pytest.mark.parametrize("head", model.HEADS)
@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_vit"])
def test_a_saved_model_gives_the_same_answers(tmp_path, architecture, head):
    model = tiny(architecture, head, (64, 48), mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.1], drop=0.3)
    model.offsets += torch.linspace(-1, 1, 18)
    save_model(model, tmp_path / "a.safetensors", epoch=3)
    again = load_model(tmp_path / "a.safetensors")
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(
            again.log_probabilities(images(2, (64, 48))),
            model.log_probabilities(images(2, (64, 48))),
        )
    description = read_description(tmp_path / "a.safetensors")
    assert description["crop"] == [448, 336]
    assert description["epoch"] == 3
    assert description["class_names"] == list(labels.CLASS_NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_layer_that_a_backbone_uses_twice_is_saved(tmp_path):
    """CoaT's position encodings are shared by its blocks, so the state names them several times."""
    model = tiny("coat_tiny", "years", (64, 64))
    save_model(model, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors").eval()
    with torch.inference_mode():
        assert torch.equal(again(images(2, (64, 64))), model(images(2, (64, 64))))


@pytest.mark.parametrize("runs_on_meta", [True, False])
def test_photos_of_a_size_that_the_backbone_cannot_take_are_refused(monkeypatch, runs_on_meta):
    """Whether or not the network runs without numbers, on the meta device."""
    halo = backbone.create_backbone("halonet26t")
    if not runs_on_meta:
        monkeypatch.setattr(backbone, "outline", lambda *_: torch.nn.Linear(1, 1))
    backbone.check_size(halo, "halonet26t", (256, 256))
    with pytest.raises(UserError, match=r"halonet26t: cannot take photos of 256 x 190.*256 256"):
        backbone.check_size(halo, "halonet26t", (256, 190))


def test_other_weights_may_be_saved_under_the_description(tmp_path):
    model = tiny()
    state = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_model(model, tmp_path / "a.safetensors", state, macro_f1=0.75)
    assert read_description(tmp_path / "a.safetensors")["macro_f1"] == 0.75
    assert torch.equal(
        load_model(tmp_path / "a.safetensors").head.mask.bias, model.head.mask.bias + 1
    )


def test_tuned_offsets_come_on_top_and_change_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    model = tiny()
    model.offsets += 1
    save_model(model, path)
    before, description = load_file(path), read_description(path)
    model_file.set_tuned_offsets(path, np.ones(18))
    model_file.set_tuned_offsets(path, np.arange(18.0))  # replaces the first
    after = load_file(path)
    assert after.pop("offsets").tolist() == list(range(1, 19))
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert read_description(path) == description | {"tuned_offsets": list(range(18))}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 2),
        ("format_version", None),
        ("class_names", ["a", "b"]),
        ("class_names", 18),
        ("architecture", 5),
        ("head", "other"),
        ("head", []),
        ("resize", [32]),
        ("resize", [32, "32"]),
        ("resize", [0, 32]),
        ("resize", [10**9, 32]),
        ("crop", "all"),
        ("crop", [1.5, 2]),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("std", [0, 0.5, 0.5]),
        ("std", None),
        ("bands", [60, 30]),
        ("std", [float("nan")] * 3),
        ("mean", [float("inf")] * 3),
        ("bands", "30 60"),
        ("model_kwargs", [1]),
        ("macro_f1", "high"),
        ("drawn", "yes"),
        ("drop", "some"),
        ("drop", 3),
    ],
)
def test_metadata_that_cannot_be_served_is_told(tmp_path, key, value):
    save_model(tiny(), tmp_path / "a.safetensors", **{key: value})
    with pytest.raises(UserError, match=key) as error:
        read_description(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "format_version",
        "class_names",
        "architecture",
        "resize",
        "crop",
        "mean",
        "bands",
        "macro_f1",
    ],
)
def test_metadata_that_is_missing_is_told(tmp_path, key):
    save_model(tiny(), tmp_path / "a.safetensors")
    description = read_description(tmp_path / "a.safetensors")
    del description[key]
    save_file(
        load_file(tmp_path / "a.safetensors"),
        tmp_path / "b.safetensors",
        {"mask_classifier": json.dumps(description)},
    )
    with pytest.raises(UserError, match=f"{key}.*missing"):
        load_model(tmp_path / "b.safetensors")


def test_files_that_are_no_model_files_are_told(tmp_path):
    save_model(tiny(), tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    deep = b"[" * 200_000
    contents = {
        "empty": b"",
        "short": good[:5],
        "head": good[:300],
        "cut": good[:-100],
        "oversized": struct.pack("<Q", 10**15) + good[8:],
        "text": b"a letter to somebody, and no model at all",
        "deep": struct.pack("<Q", len(deep)) + deep,
        "list": struct.pack("<Q", 2) + b"[]",
        "bare": struct.pack("<Q", 2) + b"{}",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    save_file({"a": torch.zeros(1)}, tmp_path / "scalar", {"mask_classifier": "3"})
    for name in [*contents, "other", "scalar", "gone", "."]:
        with pytest.raises(UserError) as error:
            read_description(tmp_path / name)
        assert "\n" not in str(error.value), name


def test_metadata_of_another_architecture_are_told(tmp_path):
    save_model(tiny(), tmp_path / "a.safetensors", architecture="test_resnet")
    with pytest.raises(UserError, match="weights do not fit test_resnet"):
        load_model(tmp_path / "a.safetensors")


# ---------------------------------------------------------------------------- answering


class Fixed(torch.nn.Module):
    """Answers with the mean of the left half of a photo as the score of class 0."""

    def log_probabilities(self, images):
        scores = torch.zeros(len(images), 18)
        scores[:, 0] = images[..., : images.shape[-1] // 2].float().mean((1, 2, 3)) / 50
        return scores.log_softmax(1)


@pytest.mark.parametrize("ways", [1, 2])
def test_predict_puts_rows_where_they_belong_and_marks_the_unread(ways):
    pixels = torch.arange(0, 60, 10).view(6, 1, 1, 1).expand(6, 4, 4, 3).to(torch.uint8)
    rows = torch.tensor([4, 0, -1 - 2, 3, 1, 5])
    loader = [(pixels[:4], rows[:4]), (pixels[4:], rows[4:])]
    fabric = Fabric(accelerator="cpu", devices=1)
    answers = predict(Fixed(), loader, 7, fabric, channels_last=False, ways=ways)
    assert (answers.shape, answers.dtype) == ((7, 18), np.float32)
    assert np.isnan(answers).any(1).tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]  # row 6 was never served
    expected = Fixed().log_probabilities(pixels.permute(0, 3, 1, 2)).numpy()
    assert np.allclose(answers[[4, 0, 3, 1, 5]], expected[[0, 1, 3, 4, 5]])


def test_a_row_served_twice_counts_once():
    pixels = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    answers = predict(
        Fixed(),
        [(pixels, torch.tensor([0, 0]))],
        1,
        Fabric(accelerator="cpu", devices=1),
        channels_last=True,
    )
    assert np.exp(answers).sum() == pytest.approx(1)


def test_views_are_averaged_as_probabilities():
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    pixels[:, :, :2] = 200
    fabric = Fabric(accelerator="cpu", devices=1)
    answers = predict(
        Fixed(), [(pixels, torch.tensor([0]))], 1, fabric, channels_last=False, views=["flip"]
    )
    photos = pixels.permute(0, 3, 1, 2)
    expected = (
        Fixed().log_probabilities(photos).exp() + Fixed().log_probabilities(photos.flip(-1)).exp()
    ) / 2
    assert np.allclose(np.exp(answers), expected, atol=1e-6)
    assert len(list(tta.views(photos, ["flip"]))) == 2


class Overflowing(torch.nn.Module):
    """Gives no numbers in less than fp32, or never."""

    def __init__(self, always):
        super().__init__()
        self.always = always

    def log_probabilities(self, images):
        lost = self.always or torch.is_autocast_enabled("cpu")
        return torch.full((len(images), 18), torch.nan if lost else -2.0)


@pytest.mark.parametrize("precision", ["bf16", None])
def test_photos_whose_scores_overflow_are_answered_again_in_fp32(precision):
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    loader = [(pixels, torch.tensor([0, -1 - 1]))]
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    common = {"precision": precision, "watch": lambda batches: (batch for batch in batches)}
    answers = predict(Overflowing(False), loader, 2, fabric, False, **common)
    assert (answers[0] == -2).all() and np.isnan(answers[1]).all()
    answers = predict(Overflowing(True), loader, 2, fabric, False, **common)
    assert np.isposinf(answers[0]).all() and np.isnan(answers[1]).all()


def trained(architecture, resize=(64, 64)):
    """A model whose batch norms do something."""
    model = tiny(architecture, "years", resize)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


@pytest.mark.parametrize(
    ("architecture", "all_of_them"),
    [
        ("mobilenetv2_100", True),
        ("resnet10t", True),
        ("test_efficientnet", True),
        ("regnety_002", True),
        ("densenet121", False),
        ("test_vit", True),
    ],
)
def test_folding_batch_norms_changes_no_answer(architecture, all_of_them):
    model = trained(architecture)
    before = model.log_probabilities(images(4, (64, 64)))
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    folded = fold_batch_norms.fold_batch_norms(model)
    assert folded == norms if all_of_them else 0 < folded < norms
    assert (
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
        == norms - folded
    )
    assert torch.allclose(model.log_probabilities(images(4, (64, 64))), before, atol=1e-4)


def test_a_convolution_whose_output_goes_elsewhere_too_is_left_alone(monkeypatch):
    class Twice(torch.nn.Module):
        num_features = 4

        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)
            torch.nn.init.constant_(self.norm.weight, 3)

        def forward(self, images):
            made = self.conv(images)
            return (self.norm(made) + made).mean((2, 3))

    monkeypatch.setattr("model.create_backbone", lambda *_: Twice())
    model = tiny("two ways")
    before = model(images())
    assert fold_batch_norms.fold_batch_norms(model) == 0
    assert isinstance(model.backbone.norm, torch.nn.BatchNorm2d) and torch.equal(
        model(images()), before
    )


def test_predict_leaves_training_mode():
    model = tiny().train()
    fabric = SimpleNamespace(
        device=torch.device("cpu"),
        world_size=1,
        autocast=Fabric(accelerator="cpu", devices=1).autocast,
    )
    pixels = images(2).permute(0, 2, 3, 1)
    first = predict(model, [(pixels, torch.tensor([0, 1]))], 2, fabric, channels_last=False)
    second = predict(
        model,
        [(pixels[[1]], torch.tensor([1])), (pixels[[0]], torch.tensor([0]))],
        2,
        fabric,
        channels_last=True,
    )
    assert not model.training
    assert np.allclose(first, second, atol=1e-4)


def test_fused_attention_answers_alike():
    model = MaskClassifier("swin_tiny_patch4_window7_224", "years", (224, 224)).eval()
    photos = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    fused = [module for module in model.modules() if hasattr(module, "fused_attn")]
    with torch.inference_mode():
        before = model(photos)
        device.fuse_attention(model, "cpu", training=True)
        assert fused and not any(module.fused_attn for module in fused)
        device.fuse_attention(model, "cpu", training=False)
        assert all(module.fused_attn for module in fused) and torch.allclose(
            model(photos), before, atol=1e-5
        )
