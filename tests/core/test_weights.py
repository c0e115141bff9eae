"""Pretrained weights: from files of every layout that timm reads, and names of every source."""

import argparse
import io
import json
import pickle
import types
from fractions import Fraction

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from core.backbone import backbone_config, is_transformer
from core.errors import UserError
from core.weights import load_pretrained
from model import MaskClassifier
from prediction.model_file import load_model, save_model

SHALLOW = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "embed_dim": 8}


def tiny(architecture="test_resnet", resize=(32, 32), **more):
    torch.manual_seed(0)
    return MaskClassifier(architecture, "factored", resize, crop=None, bands=[30, 60], **more)


def source(architecture="test_resnet", **keywords):
    torch.manual_seed(5)
    return timm.create_model(architecture, num_classes=10, **keywords)


def filled(model, state) -> bool:
    own = model.backbone.state_dict()
    return all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_filled_from_a_file(tmp_path, suffix):
    state, path = source().state_dict(), tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = tiny()
    before = torch.get_rng_state()
    own = len(model.backbone.state_dict())
    assert f"({own} of {own} tensors" in load_pretrained(model, str(path))
    assert filled(model, state) and torch.equal(torch.get_rng_state(), before)


PREFIXES = ("", "module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "net.module.")
PREFIXES += ("encoder_q.", "module.base_encoder.", "pretrained_model.", "0.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_around_names_are_taken_off(tmp_path, prefix):
    state = source().state_dict()
    named = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(named | {"criterion.weight": torch.ones(3)} if prefix else named, tmp_path / "a.pth")
    model = tiny()
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert filled(model, state)


def test_of_two_networks_in_a_checkpoint_the_average_or_the_first_is_taken(tmp_path, capfd):
    """As contrastive methods save theirs."""
    state = source().state_dict()
    content = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    content |= {f"module.encoder_k.{name}": tensor * 0 for name, tensor in state.items()}
    torch.save({"state_dict": content | {"module.queue": torch.ones(2, 2)}}, tmp_path / "a.pth")
    model = tiny()
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert filled(model, state)
    content = {f"online_model.{name}": tensor * 0 for name, tensor in state.items()}
    content |= {f"ema_model.{name}": tensor for name, tensor in state.items()}
    torch.save({"wrapper": {"inner": {"model": content}}}, tmp_path / "a.pth")
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert filled(model, state)  # of the average
    torch.save(state | {"decoder.weight": torch.ones(2)}, tmp_path / "b.pth")
    assert "unused: decoder.weight" in load_pretrained(model, str(tmp_path / "b.pth"))
    assert capfd.readouterr().err == ""  # timm would list all unused names, too


WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "mine")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_around_weights_are_taken_off_and_averages_preferred(tmp_path, wrapper):
    state = source().state_dict()
    content = {wrapper: state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    if wrapper.endswith("_ema"):
        content |= {"state_dict": {name: tensor * 0 for name, tensor in state.items()}}
    torch.save(content, tmp_path / "a.pth")
    model = tiny()
    load_pretrained(model, str(tmp_path / "a.pth"))
    assert filled(model, state)


def test_other_classes_in_a_checkpoint_are_passed_over(tmp_path):
    state = source().state_dict()
    content = {"arch": "test_resnet", "args": argparse.Namespace(lr=0.1), "state_dict": state}
    content |= {"best": np.float64(0.5), "ratio": Fraction(1, 3), "where": tmp_path}
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = tiny()
    load_pretrained(model, str(tmp_path / "model_best.pth.tar"))
    assert filled(model, state)


def test_a_model_that_was_pickled_whole_gives_its_weights_without_running_its_code(tmp_path):
    whole = source()
    whole.act = types.MethodType(filled, whole)  # a method of this module
    for content in (whole, {"net": whole, "epoch": 3}, [torch.nn.DataParallel(whole)]):
        torch.save(content, tmp_path / "a.pth")
        model = tiny()
        load_pretrained(model, str(tmp_path / "a.pth"))
        assert filled(model, whole.state_dict())


def test_the_format_is_told_by_the_content_not_the_name(tmp_path):
    state, model = source().state_dict(), tiny()
    save_file(state, tmp_path / "safe.pth")
    torch.save(state, tmp_path / "torch.safetensors")
    for name in ("safe.pth", "torch.safetensors"):
        load_pretrained(model, str(tmp_path / name))
        assert filled(model, state)


def test_swin_in_its_authors_layout_is_renamed(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    state = source(name, **SHALLOW).state_dict()
    old = {}
    for key, tensor in state.items():
        part = key.split(".")
        if part[0] == "layers" and "downsample" in key:
            part[1] = str(int(part[1]) - 1)
        old[".".join(part).replace("head.fc.", "head.")] = tensor
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save({"model": old}, tmp_path / "swin.pth")
    model = tiny(name, (224, 224), model_kwargs=SHALLOW)
    assert "random" not in load_pretrained(model, str(tmp_path / "swin.pth"))
    assert filled(model, state)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_convnext_in_its_authors_layout_is_renamed(tmp_path, name):
    shallow = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    state, old = source(name, **shallow).state_dict(), {}
    names = {"stem.": "downsample_layers.0.", ".blocks.": ".", "conv_dw": "dwconv"}
    names |= {"mlp.fc": "pwconv", "head.fc.": "head.", "head.norm.": "norm."}
    names |= {"mlp.grn.weight": "grn.gamma", "mlp.grn.bias": "grn.beta"}
    for key, tensor in state.items():
        if ".downsample." in key:
            key = key.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        old[key] = tensor.reshape(1, 1, 1, -1) if "grn" in key else tensor
    torch.save({"model": old}, tmp_path / "convnext.pth")
    model = tiny(name, (64, 64), model_kwargs=shallow)
    assert "random" not in load_pretrained(model, str(tmp_path / "convnext.pth"))
    assert filled(model, state)


def test_what_depends_on_the_size_is_resampled(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    torch.save(source(name, **SHALLOW).state_dict(), tmp_path / "swin.pth")
    model = tiny(name, (128, 96), model_kwargs=SHALLOW | {"window_size": 4})
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    load_pretrained(model, str(tmp_path / "swin.pth"))
    assert model.backbone.get_parameter(table).shape == (49, 1)
    vit = source("test_vit")
    torch.nn.init.constant_(vit.pos_embed, 3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    model = tiny("test_vit", (64, 48))
    load_pretrained(model, str(tmp_path / "vit.pth"))
    assert model.backbone.pos_embed.shape[1] == 13
    assert torch.allclose(model.backbone.pos_embed, torch.tensor(3.0), atol=1e-4)


def test_a_model_file_of_ours_gives_its_backbone(tmp_path):
    ours = tiny()
    save_model(ours, tmp_path / "a.safetensors")
    model = MaskClassifier("test_resnet", "joint", (32, 32))
    load_pretrained(model, str(tmp_path / "a.safetensors"))
    assert filled(model, ours.backbone.state_dict())


def test_what_would_stay_random_is_named_and_refused_unless_asked_for(tmp_path):
    state = source().state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer1.0.conv2.weight"] = torch.zeros(2, 2, 1, 1)
    torch.save(state | {"extra.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight, layer1.0.conv2.weight"):
        load_pretrained(tiny(), str(tmp_path / "a.pth"))
    said = load_pretrained(tiny(), str(tmp_path / "a.pth"), partial=True)
    assert "random: layer1.0.conv1.weight, layer1.0.conv2.weight" in said
    assert "unused: extra.weight" in said


def test_no_pretrained_weights_leave_the_start():
    model = tiny()
    before = [p.clone() for p in model.parameters()]
    assert "random" in load_pretrained(model, "no")
    assert all(map(torch.equal, before, model.parameters()))


def test_a_model_from_a_source_needs_it_only_once(tmp_path):
    """A folder as the hub has them, which needs no network: timm's local-dir names."""
    made = source("test_resnet", act_layer="silu")
    folder = tmp_path / "repo"
    folder.mkdir()
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4] * 3, "input_size": [3, 48, 48]}
    config |= {"num_classes": 10, "classifier": "fc", "first_conv": "conv1.0"}
    described = {"architecture": "test_resnet", "pretrained_cfg": config, "num_classes": 10}
    described["model_args"] = {"act_layer": "silu"}
    (folder / "config.json").write_text(json.dumps(described))
    save_file(made.state_dict(), folder / "model.safetensors")
    name = f"local-dir:{folder}"
    assert backbone_config(name)["mean"] == [0.1, 0.2, 0.3]
    model = tiny(name)
    assert name in load_pretrained(model, "yes")
    assert filled(model, made.state_dict())
    assert isinstance(model.backbone.act1, torch.nn.SiLU)
    other = tiny(model_kwargs={"act_layer": "silu"})
    load_pretrained(other, str(folder))
    assert filled(other, made.state_dict())
    save_model(model, tmp_path / "a.safetensors", drawn=True, macro_f1=None)
    (folder / "config.json").unlink()
    assert load_model(tmp_path / "a.safetensors").description["architecture"] == "test_resnet"
    with pytest.raises(UserError, match="cannot be read"):
        backbone_config(f"local-dir:{tmp_path}")


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(monkeypatch):
    def unreachable(*_):
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(timm.models, "load_model_config_from_hf", unreachable)
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", unreachable)
    with pytest.raises(UserError, match=r"hf_hub:somebody/model: .* \(ConnectionError\)$"):
        backbone_config("hf_hub:somebody/model")
    with pytest.raises(UserError, match="hf-hub:somebody/model: cannot be fetched"):
        load_pretrained(tiny(), "hf-hub:somebody/model")


def test_names_from_before_timm_09_have_their_own_statistics_and_size():
    old, new = "vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k"
    assert backbone_config(old) == backbone_config(new)
    assert backbone_config(old)["mean"] == [0.5] * 3
    assert backbone_config("swin_base_patch4_window12_384_in22k")["resize"] == [384, 384]


SETTLED = {
    "swin_large_patch4_window12_384.ms_in22k": True,
    **{"test_vit": True, "mvitv2_tiny": True, "xcit_nano_12_p16_224": True, "volo_d1_224": True},
    **{"tiny_vit_5m_224": True, "fastvit_t8": True, "levit_128s": True, "convnext_atto": True},
    **{"resnet10t": False, "mobilenetv2_100": False, "gcresnet33ts": False, "vgg11": False},
}


def test_transformers_are_told_by_what_they_contain():
    assert {name: is_transformer(name) for name in SETTLED} == SETTLED


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name):
    trap = tmp_path / "was-run"
    for content in (Evil(trap), {"state_dict": Evil(trap)}):
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match="cannot be read as weights") as error:
            load_pretrained(tiny(), str(tmp_path / name))
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="cannot be read as weights"):
            load_pretrained(tiny(), str(tmp_path / name))
    assert not trap.exists()
    assert "\n" not in str(error.value)


def cut_off() -> bytes:
    stream = io.BytesIO()
    torch.save(source().state_dict(), stream)
    return stream.getvalue()[:-1000]


def script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), stream)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "a web page"),
        (b"", "an empty file"),
        (cut_off, "cut off or damaged"),
        (script, "TorchScript|damaged"),
        (b"\0\1\2 something else", "not written by torch.save|damaged"),
    ],
)
def test_a_file_that_holds_no_weights_is_named_for_what_it_is(
    tmp_path, recwarn, name, content, said
):
    (tmp_path / name).write_bytes(content() if callable(content) else content)
    recwarn.clear()  # those of writing it
    with pytest.raises(UserError, match=f"cannot be read as weights .*({said})"):
        load_pretrained(tiny(), str(tmp_path / name))
    with pytest.raises(UserError, match="download it"):
        load_pretrained(tiny(), f"https://example.com/{name}")
    assert not [each for each in recwarn if each.category is UserWarning]


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        torch.zeros(3),
        {"state_dict": [3]},
        {0: torch.zeros(1)},
        {"model": torch.zeros(2)},
        {"conv1.weight": 5},
        {"conv1.weight": torch.zeros(2)},
    ],
)
def test_other_contents_and_other_models_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        load_pretrained(tiny("test_resnet"), str(tmp_path / "weights.pth"))
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match="another model"):
        load_pretrained(tiny("test_resnet"), str(tmp_path / "vit.pth"))
    with pytest.raises(UserError, match="does not exist"):
        load_pretrained(tiny("test_resnet"), str(tmp_path / "gone.pth"))


def test_weights_of_a_training_that_broke_down_are_refused(tmp_path):
    state = source().state_dict()
    next(iter(state.values()))[0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="tensors hold NaN or infinity"):
        load_pretrained(tiny(), str(tmp_path / "w.safetensors"))
