"""benchmarks/search.py with a training that takes no time: a study, pruned and continued."""

import importlib.util

import pytest

from core.errors import UserError
from core.folders import ROOT

TRAINING = """
import signal, sys, time
from pathlib import Path

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run = Path(flags["--model_dir"]) / flags["--name"]
run.mkdir(parents=True)
lr = float(flags["--lr"])
if lr > 0.5:
    sys.exit("loss is not finite")
signal.signal(signal.SIGTERM, lambda *_: ((run / "stopped").touch(), sys.exit(143)))
text = "epoch,macro_f1\\n"
for epoch in range(1, 4):
    text += f"{epoch},{epoch * lr}\\n"
    (run / "part").write_text(text)
    (run / "part").rename(run / "metrics.csv")
    time.sleep(0.2 if "--slow" in flags else 0)
"""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """search(words) -> the study, done by the stand-in for train.py above."""
    spec = importlib.util.spec_from_file_location("search", ROOT / "benchmarks" / "search.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "training.py").write_text(TRAINING)
    monkeypatch.setattr(module, "TRAIN", tmp_path / "training.py")
    monkeypatch.setattr(module, "POLL", 0.02)
    module.output = tmp_path / "out"

    def run(*words):
        return module.main(module.parse_args([*words, "--output", str(module.output)]))

    module.run_it = run
    return module


def test_a_search_is_kept_continued_and_drawn(search, capsys):
    assert search.run_it("lr=0.01..0.1", "--trials", "2") == 0
    assert search.run_it("lr=0.01..0.1", "--trials", "5") == 0
    out = capsys.readouterr().out
    assert out.count("trial 1: ") == 1 and "best of 5 trials" in out
    assert {path.name for path in search.output.glob("*.png")} == {"history.png", "importance.png"}
    assert len(list((search.output / "runs").glob("trial-*/metrics.csv"))) == 5


def test_a_training_that_lags_behind_is_stopped(search, monkeypatch, capsys):
    import optuna

    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: trial.number == 1)
    monkeypatch.setattr(search, "TRAIN", search.TRAIN.with_name("slow.py"))
    search.TRAIN.write_text(TRAINING.replace('0.2 if "--slow" in flags else 0', "0.3"))
    search.run_it("lr=0.01..0.1", "--trials", "3")
    assert "(pruned)" in capsys.readouterr().out
    stopped = list((search.output / "runs").glob("trial-*/stopped"))
    assert [path.parent.name for path in stopped] == ["trial-0001"]


def test_what_was_running_when_a_search_was_killed_is_trained_again(search):
    import optuna

    search.output.mkdir()
    storage = f"sqlite:///{search.output / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="train.py", direction="maximize")
    study.ask({"lr": optuna.distributions.FloatDistribution(0.01, 0.1, log=True)})
    tried = study.trials[0].params
    search.run_it("lr=0.01..0.1", "--trials", "2")
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"] and study.trials[1].params == tried


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr"], "FLAG=LOW..HIGH"),
        (["lr=a..b"], "numbers"),
        (["lr=1..0.1"], "lower number first"),
        (["drop=0..0.5", "--", "--folds", "3"], "without --folds"),
        (["drop=0..0.5", "--", "--members", "3"], "without --folds or --members"),
        (["lr=0.6..0.9"], "no training succeeds"),
    ],
)
def test_what_cannot_be_searched_is_told(search, words, said):
    at = words.index("--") if "--" in words else len(words)
    words = [*words[:at], "--output", str(search.output), *words[at:]]
    with pytest.raises(UserError, match=said):
        search.main(search.parse_args(words))


def test_a_flag_or_value_that_train_refuses_ends_before_any_training(search):
    for space in ("speed=1..2", "drop=0..1.5", "head=joint,triple"):
        with pytest.raises(SystemExit) as stop:
            search.run_it(space)
        assert stop.value.code == 2 and not search.output.exists()
