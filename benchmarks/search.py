"""Search settings of train.py with Optuna, pruned by validation macro-F1.

    python benchmarks/search.py lr=1e-3..1e-1 drop=0..0.5 criterion=focal,label_smoothing \\
        --trials 30 --output output/search -- --data_dir /data/train --model mobilenetv2_100

FLAG=LOW..HIGH is a range, searched on a logarithmic scale where HIGH is ten times LOW or more;
FLAG=A,B,C are choices. Flags after `--` go to every training. Each trial is a run in OUTPUT/runs;
the study is OUTPUT/study.db (SQLite), which a search that was stopped continues with the same
command. At the end the trials are drawn in OUTPUT/history.png and OUTPUT/importance.png.
The best of many trials looks better than it is: score the settings on other people (--folds).
"""

import argparse
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from training import settings  # noqa: E402

TRAIN = ROOT / "train.py"
POLL = 1.0  # seconds between looks at a run's metrics.csv


def parse_args(own=None) -> argparse.Namespace:
    own, common = list(sys.argv[1:] if own is None else own), []
    if "--" in own:
        own, common = own[: own.index("--")], own[own.index("--") + 1 :]
    p = ArgumentParser(prog="search.py", description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("space", nargs="+", metavar="FLAG=VALUES", help="what to search, as above")
    p.add_argument("--trials", type=int, default=30, help="trainings in all, pruned ones included")
    p.add_argument("--output", type=Path, default=Path("output/search"), metavar="DIR")
    p.add_argument("--seed", type=int, default=0, help="seed of the search")
    args = p.parse_args(own)
    args.common = common
    args.space = dict(values_of(text) for text in args.space)
    return args


def values_of(text: str) -> tuple[str, list]:
    """ "lr=1e-3..1e-1" -> ("lr", [0.001, 0.1]); "criterion=f1,focal" -> (..., ["f1", "focal"])."""
    flag, _, values = text.partition("=")
    flag = flag.removeprefix("--")
    low, dots, high = values.partition("..")
    if not flag or not values:
        raise UserError(f"{text}: write FLAG=LOW..HIGH or FLAG=A,B,C")
    if not dots:
        return flag, values.split(",")
    try:
        limits = [int(low), int(high)] if low.isdecimal() and high.isdecimal() else None
        limits = limits or [float(low), float(high)]
    except ValueError:
        raise UserError(f"{text}: LOW and HIGH are numbers") from None
    if not limits[0] < limits[1]:
        raise UserError(f"{text}: give the lower number first")
    return flag, limits


def suggest(trial, flag: str, values: list):
    """What Optuna wants to try for one flag."""
    if isinstance(values[0], str):
        return trial.suggest_categorical(flag, values)
    low, high = values
    log = 0 < low and high >= 10 * low
    suggest_number = trial.suggest_int if isinstance(low, int) else trial.suggest_float
    return suggest_number(flag, low, high, log=log)


def flags_of(chosen: dict) -> list[str]:
    """Flags of a trial; of numbers four digits, so that the command can be read and repeated."""
    texts = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in chosen.items()}
    return [word for flag, text in texts.items() for word in (f"--{flag}", text)]


def check_space(args) -> None:
    """UserError, before any work, if train.py would refuse an end of a range or a choice."""
    for flag, values in args.space.items():
        for value in values:
            chosen = settings.parse_or_exit([*args.common, *flags_of({flag: value})])
    if chosen.folds or chosen.members or not chosen.val_ratio:
        raise UserError(
            "search on one split with people to validate on, without --folds or --members"
        )


def train(trial, args) -> float:
    """Train with the settings of one trial: the best validation macro-F1."""
    import optuna

    name = f"trial-{trial.number:04d}"
    chosen = {flag: suggest(trial, flag, values) for flag, values in args.space.items()}
    folder, log = args.output / "runs" / name, args.output / f"{name}.log"
    if folder.exists():
        raise UserError(f"{folder} exists already, from another study; give another --output")
    own = ["--model_dir", args.output / "runs", "--name", name, "--report", "no", "--logger", "csv"]
    command = [sys.executable, TRAIN, *args.common, *flags_of(chosen), *own]
    scores: list[float] = []
    with log.open("w") as stream:
        process = subprocess.Popen(list(map(str, command)), stdout=stream, stderr=stream)
        try:
            while True:
                ended = process.poll() is not None
                for score in scores_of(folder)[len(scores) :]:
                    scores.append(score)
                    trial.report(score, len(scores))
                    if trial.should_prune() and not ended:
                        raise optuna.TrialPruned
                if ended:
                    break
                time.sleep(POLL)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if process.returncode or not scores:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ChildProcessError(f"{name}: {lines[-1] if lines else 'failed'}")
    return max(scores)


def scores_of(folder: Path) -> list[float]:
    """The validation macro-F1 of the epochs so far."""
    file = folder / "metrics.csv"
    return pd.read_csv(file)["macro_f1"].tolist() if file.is_file() else []


def search(args):
    """The study, continued to `args.trials` trainings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    args.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{args.output / 'study.db'}",
        study_name="train.py",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=args.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=[states.RUNNING]):  # of a search that was stopped
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params)

    def finished():
        return len(study.get_trials(states=[states.COMPLETE, states.PRUNED]))

    def after(study, trial):
        value = "failed, see its log" if trial.value is None else f"macro-F1 {trial.value:.4f}"
        state = " (pruned)" * (trial.state == states.PRUNED)
        print(f"trial {trial.number}: {value}{state}  {' '.join(flags_of(trial.params))}")
        if trial.state == states.FAIL and not finished():
            study.stop()

    while finished() < args.trials:
        before = finished()
        study.optimize(
            lambda trial: train(trial, args),
            n_trials=args.trials - before,
            callbacks=[after],
            catch=ChildProcessError,
        )
        if finished() == before:
            raise UserError(f"no training succeeds, see {args.output}/trial-*.log")
    return study


def draw(study, output: Path) -> None:
    import matplotlib
    import optuna.visualization.matplotlib as plots

    matplotlib.use("Agg")
    for name, plot in (
        ("history", plots.plot_optimization_history),
        ("importance", plots.plot_param_importances),
    ):
        with warnings.catch_warnings(action="ignore"):  # plots are experimental; few trials
            axes = plot(study)
        axes.figure.savefig(output / f"{name}.png", bbox_inches="tight")


def main(args) -> int:
    if find_spec("optuna") is None:
        raise UserError("optuna is not installed; 'pip install -r requirements-extras.txt'")
    check_space(args)
    study = search(args)
    draw(study, args.output)
    best = study.best_trial
    print(f"best of {len(study.trials)} trials: macro-F1 {best.value:.4f}, trial {best.number}")
    print(f"train.py {' '.join([*args.common, *flags_of(best.params)])}")
    return 0


if __name__ == "__main__":
    run(lambda _: main(parse_args()), None)
