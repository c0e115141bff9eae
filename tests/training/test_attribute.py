"""--attribute: a model of the mask, the gender or the age alone, and what is made of three."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import ensemble
import inference
from core.errors import UserError
from core.labels import ATTRIBUTES, encode
from core.metrics import score
from loss import scores_of
from prediction.model_file import load_model
from prediction.predictor import Predictor
from prediction.words import attribute_probabilities
from preparation.suspects import predictions_of, rank
from reporting.run import run_page


def test_scores_of_an_attribute_are_its_marginal_probabilities():
    scores = torch.randn(5, 18)
    shares = attribute_probabilities(scores.softmax(1).numpy())
    for name, expected in shares.items():
        assert np.allclose(scores_of(scores, name).softmax(1), expected, atol=1e-6)
    assert scores_of(scores, None) is scores


def test_the_score_of_an_attribute_ignores_the_others():
    labels, ans = np.array([0, 6, 12, 3]), np.array([5, 11, 17, 9])
    assert score(labels, ans, "mask") == {"macro_f1": pytest.approx((2 / 3 + 2 / 3 + 1) / 3)} | {
        "accuracy": 0.75
    }


@pytest.fixture(scope="module")
def runs(drawn, trained, tmp_path_factory):
    """A run for each attribute: the model folder."""
    model_dir = tmp_path_factory.mktemp("attributes")
    for name in ATTRIBUTES:
        more = ("--criterion", "cross_entropy_f1", "--f1_memory", "0.5", "--report", "yes")
        trained(drawn, model_dir, "--epochs", "1", "--attribute", name, *more, name=name)
    return model_dir


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_run_learns_scores_and_predicts_its_attribute_alone(runs, name):
    run = runs / name
    table = pd.read_csv(run / "val_predictions.csv")
    shares = attribute_probabilities(table[[f"p{label}" for label in range(18)]].to_numpy())
    for other, of_photos in shares.items():
        assert (np.ptp(of_photos, axis=0).max() < 2e-5) == (other != name)
    assert ("years" in table) == (name == "age")
    row = pd.read_csv(run / "metrics.csv").iloc[-1]
    expected = score(table["label"].to_numpy(), table["ans"].to_numpy(), name)
    assert row["macro_f1"] == pytest.approx(expected["macro_f1"]) and "mask" not in row
    model = load_model(run / "best.safetensors")
    assert model.description["attribute"] == name
    assert set(rank(predictions_of([run]))[0]["field"]) == {name}
    with pytest.raises(UserError, match=f"trained on the {name} alone"):
        run_page(run)


def test_three_runs_are_joined_and_nothing_else_is(runs, drawn, trained, tmp_path, capsys):
    paths = {}
    for name in ATTRIBUTES:
        flags = ["--model_dir", runs, "--name", name, "--data_dir", drawn / "eval"]
        flags += ["--output_dir", tmp_path]
        assert inference.main(inference.parse_args(list(map(str, flags)))) == 0
        paths[name] = str(tmp_path / f"{name}.csv")
        assert f"trained on the {name} alone" in capsys.readouterr().out
    flags = [word for name, path in paths.items() for word in (f"--{name}", path)]
    ensemble.combine(ensemble.parse_args(["combine", *flags]))
    values = []
    for name, path in paths.items():
        with np.load(path.replace(".csv", ".npz")) as arrays:
            values.append(attribute_probabilities(arrays["probabilities"])[name].argmax(1))
    mask, gender, age = values
    joined = encode(mask, gender, np.array([20, 45, 60])[age])
    assert pd.read_csv(tmp_path / "combined.csv")["ans"].tolist() == joined.tolist()

    wrong = ["combine", "--mask", paths["age"], *flags[2:]]
    with pytest.raises(UserError, match="predicts the age alone"):
        ensemble.combine(ensemble.parse_args(wrong))
    with pytest.raises(UserError, match="predicts the mask alone"):
        ensemble.vote(ensemble.parse_args(["vote", *paths.values()]))
    with pytest.raises(UserError, match="models of age and mask cannot be averaged"):
        Predictor([runs / "mask", runs / "age"])
    with pytest.raises(UserError, match=r"--resume: .* had --attribute mask, now it is None"):
        trained(drawn, runs, "--epochs", "1", "--resume", name="mask")


def test_folds_of_an_attribute_are_scored_on_it(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "1", "--attribute", "age", "--folds", "2")
    scores = json.loads((run / "config.json").read_text())["scores"]
    assert set(scores) == {"macro_f1", "accuracy"}
    assert "tuned_offsets" not in load_model(run / "fold-0" / "best.safetensors").description
