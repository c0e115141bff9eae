import json
import subprocess
import sys

import pytest
import torch

from core import backbone
from core.errors import UserError
from core.folders import ROOT
from training import settings, startup
from training.recipes import KNOWN, RECIPES


@pytest.fixture
def config(tmp_path):
    def write(content):
        (tmp_path / "config.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
        return str(tmp_path / "config.json")

    return write


def test_a_flag_beats_config_beats_recipe_beats_default(config):
    stored = config(
        {
            "settings": {
                "lr": 0.25,
                "batch_size": 7,
                "name": "old",
                "data_dir": "/old",
                "resume": "yes",
            }
        }
    )
    assert settings.parse(["--recipe", "winners"]).lr == 2e-5
    args = settings.parse(["--recipe", "winners", "--config", stored, "--batch_size", "5"])
    assert (args.epochs, args.lr, args.batch_size) == (5, 0.25, 5)
    assert args.optimizer == "AdamW"
    assert (args.criterion, args.head) == ("f1_winners", "joint")
    assert (args.name, args.data_dir, args.resume) == ("run", None, "no")
    assert settings.parse(["--config", stored, "--recipe", "winners", "--lr", "3"]).lr == 3


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ("--model resnet10t", ("LAMB", 5e-3, 0.02)),
        ("--model resnet10t --optimizer clambw", ("clambw", 5e-3, 0.02)),
        ("--model resnet10t --optimizer SGD", ("SGD", 0.04, 5e-4)),
        ("--model resnet10t --optimizer nesterov", ("nesterov", 0.04, 5e-4)),
        ("--model resnet10t --optimizer adamw", ("adamw", 2e-3, 0.05)),
        ("--model resnet10t --optimizer adamw --weight_decay 0", ("adamw", 2e-3, 0)),
        ("", ("AdamW", 2e-5, 0.01)),
        ("--model convnext_tiny --lr 5e-5", ("AdamW", 5e-5, 0.01)),
        ("--model vit_small_patch16_224 --optimizer SGD", ("SGD", 0.04, 5e-4)),
        ("--model vit_small_patch16_224 --optimizer lamb", ("lamb", 5e-3, 0.02)),
        *(
            (f"--model {name}", ("AdamW", 2e-5, 0.01))
            for name in ("mvitv2_tiny", "tiny_vit_5m_224", "convnext_atto_rms")
        ),
        ("--model gcresnet33ts", ("LAMB", 5e-3, 0.02)),
        ("--recipe sample", ("LAMB", 5e-3, 0.02)),
    ],
)
def test_learning_rate_and_weight_decay_are_those_of_the_optimizer_and_the_model(flags, rates):
    args = settings.parse(flags.split())
    assert (args.optimizer, args.lr, args.weight_decay) == rates


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ("--model resnet18 --devices 4", 0.01),
        ("--model resnet18 --devices 8 --optimizer SGD", 0.32),
        ("--model resnet18 --devices 2 --batch_size 16", 5e-3),
        ("--model resnet18 --devices 4 --nodes 2 --accumulate 2 --batch_size 2", 5e-3),
        ("--model resnet18 --batch_size 8 --optimizer adamw", 1e-3),
        ("--devices 8", 5.66e-5),
        ("--accumulate 4", 4e-5),
        ("--devices 8 --lr 1e-4", 1e-4),
        ("--devices 8 --recipe winners", 2e-5),
        ("--model vit_small_patch16_224 --optimizer SGD --devices 2", 0.08),
    ],
)
def test_the_default_learning_rate_grows_with_the_photos_in_an_update(flags, rate):
    assert settings.parse(flags.split()).lr == rate


def test_devices_of_the_environment_count_for_the_learning_rate(monkeypatch):
    monkeypatch.setenv("SM_NUM_GPUS", "4")
    assert settings.parse([]).lr == 4e-5


def test_what_is_known_without_building_a_model_is_true():
    assert {name: backbone.is_transformer(name) for name in KNOWN} == KNOWN
    assert set(KNOWN) >= {settings.parse([]).model, settings.parse(["--recipe", "sample"]).model}


def test_the_flags_of_a_run_can_be_run_again(config):
    first = settings.parse(
        [
            "--recipe",
            "winners",
            "--name",
            "swin",
            "--drop_ages",
            "57",
            "59",
            "--model_kwargs",
            "a=1",
        ]
    )
    again = settings.parse(
        ["--config", config({"settings": json.loads(json.dumps(vars(first)))}), "--name", "swin"]
    )
    assert {**vars(again), "config": None, "recipe": "winners"} == vars(first)


def test_the_winners_recipe_is_theirs_number_by_number():
    args = settings.parse(["--recipe", "winners"])
    assert (args.model, args.resize, args.crop, args.bands) == (
        "SwinTransformerLarge384",
        [384, 384],
        [320, 256],
        [29, 57],
    )
    assert (args.epochs, args.batch_size, args.lr, args.optimizer) == (5, 16, 2e-5, "AdamW")
    assert (args.criterion, args.augmentation, args.scheduler) == (
        "f1_winners",
        "winners",
        "winners",
    )
    assert (args.lr_decay_step, args.warmup) == (4, 5)
    assert (args.mixup, args.half_face, args.ema, args.layer_decay, args.sampling) == (
        0,
        0,
        0,
        1,
        "shuffle",
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_names_flags_that_exist(recipe):
    assert set(RECIPES[recipe]) <= set(vars(settings.parser().parse_args([])))
    settings.parse(["--recipe", recipe])


BAD = [
    "--epochs 0",
    "--batch_size -1",
    "--lr 0",
    "--lr nan",
    "--val_ratio 1",
    "--val_ratio -0.1",
    "--val_ratio nan",
    "--ema 1",
    "--mixup 2",
    "--smoothing 1",
    "--f1_share 1.5",
    "--f1_memory 1",
    "--drop 1",
    "--layer_decay 0",
    "--layer_decay 1.1",
    "--warmup -1",
    "--clip -1",
    "--clip nan",
    "--weight_decay nan",
    "--lr inf",
    "--resize 0 10",
    "--resize 7 8",  # OpenCV drops the dimensions of 1
    "--crop 10 -1",
    "--bands 60 30",
    "--bands 0 30",
    "--bands 30 100",
    "--fold 0",
    "--folds 3 --fold 3",
    "--folds 3 --fold -1",
    "--members 0",
    "--folds 3 --members 2",
    "--members 2 --seed 4294967295",
    "--workers -1",
    "--seed -1",
    "--seed 4294967296",
    "--mean 124 116 104",
    "--std 58 57 57",
    "--std 0 0.5 0.5",
    "--std nan 0.5 0.5",
    "--drop_ages 59 57",
    "--thin -1",
    "--accumulate 0",
    "--years_sigma 0",
    "--lr_decay_step 0",
    "--log_interval 0",
    "--epochs many",
    "--head other",
    "--recipe other",
    "--criter f1",
    "--precision fp8",
    "--resize 10",
]


@pytest.mark.parametrize("flags", BAD)
def test_a_bad_value_ends_with_status_2_and_names_the_flag(flags, capsys):
    with pytest.raises(SystemExit) as error:
        settings.parse_or_exit(flags.split())
    assert error.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert flags.split()[0] in told or flags.split()[-2] in told


@pytest.mark.parametrize(
    "flags",
    [
        "--val_ratio 0",
        "--f1_share 1",
        "--mixup 1",
        "--clip 0",
        "--warmup 0",
        "--thin 1",
        "--drop_ages 57 57",
        "--folds 3 --fold 2",
        "--workers 0",
        "--layer_decay 1",
        "--ema 0.999",
    ],
)
def test_values_at_the_border_are_taken(flags):
    settings.parse(flags.split())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        {"settings": 3},
        {"settings": {"colour": "red"}},
        {"settings": {"epochs": [1]}},
        {"settings": {"epochs": None}},
        {"settings": {"bands": 5}},
        {"settings": {"bands": [1, 2, 3]}},
        {"settings": {"head": "other"}},
        {"settings": {"lr": "fast"}},
        {"settings": {"resize": ["a", "b"]}},
        {"settings": {"epochs": 2.5}},
        {"settings": {"model": 3}},
        {"settings": {"epochs": 0}},
    ],
)
def test_a_config_that_cannot_be_used_is_told_in_one_line(config, content, capsys):
    with pytest.raises(SystemExit) as error:
        settings.parse_or_exit(["--config", config(content)])
    assert error.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises((UserError, SystemExit)):
        settings.parse(["--config", config(content)])


def test_ranges_of_ages_add_up_and_flags_beat_a_config(config):
    flags = "--drop_ages 28 29 --drop_ages 57 59".split()
    assert settings.parse(flags).drop_ages == [[28, 29], [57, 59]]
    stored = config({"settings": {"drop_ages": [20, 21]}})  # one range, as it once was stored
    assert settings.parse(["--config", stored]).drop_ages == [[20, 21]]
    assert settings.parse(["--config", stored, *flags]).drop_ages == [[28, 29], [57, 59]]


def test_ranges_of_ages_add_up_on_a_command_line(monkeypatch):
    words = "train.py --drop_ages 28 29 --drop_ages 57 59 --model_kwargs a=1".split()
    monkeypatch.setattr(sys, "argv", words)
    assert settings.parse().drop_ages == [[28, 29], [57, 59]]


def test_a_config_can_be_yaml(tmp_path):
    file = tmp_path / "flags.yaml"
    text = "# 설정\nlr: 1e-3\npretrained: no\nresize: [64, 48]\ndrop_ages: [[57, 59]]\ncache: yes\n"
    file.write_text(text, encoding="cp949")
    args = settings.parse(["--config", str(file), "--epochs", "3"])
    assert (args.lr, args.pretrained, args.resize, args.cache) == (1e-3, "no", [64, 48], "yes")
    assert (args.drop_ages, args.epochs) == ([[57, 59]], 3)
    for text in ("a: [", "- lr", "lr: fast", "colour: red", "drop_ages: 3", "drop_ages: {a: 1}"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"flags\.yaml"):
            settings.parse(["--config", str(file)])


@pytest.mark.parametrize("flags", ["--patience 2", "--scheduler plateau"])
def test_what_follows_the_score_needs_people_to_validate_on(flags):
    settings.parse(flags.split())
    with pytest.raises(UserError, match=flags.split()[0]):
        settings.parse([*flags.split(), "--val_ratio", "0"])


def test_a_config_that_is_missing_is_told(capsys):
    with pytest.raises(SystemExit) as error:
        settings.parse_or_exit(["--config", "/nowhere/config.json"])
    assert error.value.code == 2
    assert "/nowhere/config.json" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "devices"), [(None, 1), ("", 1), ("0", 1), ("4", 4)])
def test_devices_follow_sagemaker(monkeypatch, value, devices):
    if value is not None:
        monkeypatch.setenv("SM_NUM_GPUS", value)
    assert settings.parse([]).devices == devices
    assert settings.parse(["--devices", "2"]).devices == 2


def test_a_number_of_gpus_that_is_none_is_told(monkeypatch, capsys):
    monkeypatch.setenv("SM_NUM_GPUS", "all")
    with pytest.raises(SystemExit) as error:
        settings.parse_or_exit([])
    assert error.value.code == 2
    assert "devices" in capsys.readouterr().err


def test_keywords_are_read_as_json_where_they_can_be():
    pairs = ["a=1", "b=0.5", "c=text", "d=true", "e=False", "f=None", "g=[1, 2]", "h=x=y", "i="]
    assert settings.keywords(pairs) == {
        "a": 1,
        "b": 0.5,
        "c": "text",
        "d": True,
        "e": False,
        "f": None,
        "g": [1, 2],
        "h": "x=y",
        "i": "",
    }
    assert settings.keywords([]) == {}


@pytest.mark.parametrize("pair", ["a", "=1", "a b=1", "1a=2", ""])
def test_a_keyword_that_is_none_is_told(pair):
    with pytest.raises(UserError, match="KEY=VALUE"):
        settings.keywords([pair])


def test_help_shows_the_defaults_of_the_model_asked_for_and_needs_nothing_heavy():
    code = (
        "import sys; from training import settings\ntry: settings.parse(sys.argv[1:])\n"
        "except SystemExit: sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--recipe", "sample", "--optimizer", "SGD", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"--{key}" in done.stdout for key in vars(settings.parse([])))
    shown = " ".join(done.stdout.split())
    assert "(default: 0.2)" in shown and "peak learning rate; depends" in shown
    assert "photos in an update (default: 0.04)" in shown and "each device (default: 32)" in shown


@pytest.mark.parametrize(("model", "shown"), [("vit_small_patch16_224", "16"), ("resnet18", "32")])
def test_help_shows_the_batch_size_of_that_model(model, shown, capsys):
    with pytest.raises(SystemExit):
        settings.parse(["--help", "--model", model])
    text = " ".join(capsys.readouterr().out.split())
    assert f"photos per step on each device (default: {shown})" in text
    assert "dropout probability before the head (default: 0.0)" in text or model == "resnet18"


def test_what_timm_cannot_freeze_is_refused_if_asked_for_and_said_if_not(capsys):
    """PiT, PoolFormer and others have no layer groups; two of them are frozen by default."""
    backbone = torch.nn.Linear(1, 1)
    args = settings.parse(["--model", "poolformer_s12", "--freeze", "2"])
    with pytest.raises(UserError, match=r"--freeze 2: .* poolformer_s12; use --freeze 0"):
        startup.freeze(backbone, args.freeze, args)
    args = settings.parse(["--model", "poolformer_s12"])
    startup.freeze(backbone, 2, args)
    assert backbone.weight.requires_grad
    assert "nothing is frozen" in capsys.readouterr().out
