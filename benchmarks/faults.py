"""Kill a real training process again and again, go on each time, and compare its end with that of a run left alone.

    python benchmarks/faults.py                 25 kills
    python benchmarks/faults.py --kills 3       the short form that the tests run

A small model is trained on the sample set. Every process is killed (SIGKILL, or SIGTERM every third time) a random time after
its start, then started again by the same command with `--resume auto`. After each kill every file under its final name must be
whole; the seconds of work lost are shown. At the end weights and tables must be equal bit for bit.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402

FLAGS = [
    "--model",
    "test_efficientnet",
    "--pretrained",
    "no",
    "--resize",
    "32",
    "24",
    "--batch_size",
    "16",
    "--precision",
    "fp32",
    "--layout",
    "last",
    "--logger",
    "csv",
    "--report",
    "no",
    "--mixup",
    "0.3",
    "--half_face",
    "0.3",
    "--ema",
    "0.9",
    "--sampling",
    "weighted",
    "--check_photos",
    "no",
]


def parse_args() -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--kills", type=int, default=25)
    p.add_argument("--epochs", type=int, default=60)
    p.add_argument(
        "--workers", type=int, default=1, help="processes that read photos, which die with theirs"
    )
    p.add_argument("--save_interval", type=float, default=0.25, help="seconds between checkpoints")
    p.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    return p.parse_args()


def main(args) -> int:
    with tempfile.TemporaryDirectory() as work:
        return harness(args, Path(work))


def harness(args, work: Path) -> int:
    import pandas as pd
    import torch
    from safetensors.torch import load_file

    subprocess.run(
        [
            sys.executable,
            ROOT / "prepare.py",
            "sample",
            work / "sample",
            "--people",
            "24",
            "--eval_people",
            "2",
            "--size",
            "48",
            "64",
        ],
        check=True,
        capture_output=True,
    )
    command = [
        sys.executable,
        ROOT / "train.py",
        "--data_dir",
        work / "sample" / "train",
        "--model_dir",
        work,
        *FLAGS,
        "--epochs",
        str(args.epochs),
        "--workers",
        str(args.workers),
        "--save_interval",
        str(args.save_interval / 60),
    ]
    start = time.perf_counter()
    subprocess.run([*command, "--name", "whole"], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    print(f"a run left alone: {args.epochs} epochs in {seconds:.0f} s")

    moments, path = random.Random(args.seed), work / "cut"
    tally = {
        "before the first checkpoint": 0,
        "within an epoch": 0,
        "between epochs": 0,
        "after the end": 0,
    }
    lost = []  # seconds since the last checkpoint, where the killed process had written one
    signals = {"SIGKILL": 0, "SIGTERM": 0}
    for number in range(args.kills):
        how = signal.SIGTERM if number % 3 == 2 else signal.SIGKILL
        begun = time.time()
        process = subprocess.Popen(
            [*command, "--name", "cut", "--resume", "auto"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(moments.uniform(0.2, 1.0) * seconds / 2)
        killed = time.time()
        process.send_signal(how)
        said, _ = process.communicate()
        # a SIGTERM before the training loop has begun ends the process as ever; nothing was there to save
        expected = {0, -how, 128 + how} if how == signal.SIGTERM else {0, -how}
        if process.returncode not in expected:
            raise UserError(
                f"kill {number + 1} ({how.name}): status {process.returncode}, expected {expected}: {said[-500:]}"
            )
        if process.returncode:
            signals[how.name] += 1
            tally[place(path)] += 1
            saved = (path / "last.ckpt").stat().st_mtime if (path / "last.ckpt").is_file() else 0
            if how == signal.SIGKILL and saved > begun:
                lost.append(killed - saved)
        else:
            tally["after the end"] += 1
    done = subprocess.run(
        [*command, "--name", "cut", "--resume", "auto"], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"the last run ended with {done.returncode}: {done.stderr[-500:]}")

    whole, cut = (load_file(work / name / "best.safetensors") for name in ("whole", "cut"))
    equal = sum(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    columns = ["epoch", "lr", "loss", "macro_f1", "accuracy"]
    tables = [pd.read_csv(work / name / "metrics.csv")[columns] for name in ("whole", "cut")]
    print(
        f"processes killed: {sum(signals.values())} ({', '.join(f'{count} by {name}' for name, count in signals.items())})"
    )
    print("last checkpoint then: " + ", ".join(f"{what} {count}" for what, count in tally.items()))
    if lost:
        print(
            f"work lost by SIGKILL: {max(lost):.2f} s at most ({len(lost)} kills), checkpoints being {args.save_interval} s apart"
        )
    print(
        f"tensors equal bit for bit: {equal} of {len(whole)}; metrics.csv equal: {tables[0].equals(tables[1])}"
    )
    return int(equal < len(whole) or not tables[0].equals(tables[1]))


def place(path: Path) -> str:
    """Where the last checkpoint in `path` stands, every file there being read whole on the way."""
    import json

    import pandas as pd
    import torch

    from prediction.model_file import load_model

    for file in path.glob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))
    for file in path.glob("*.csv"):
        pd.read_csv(file)
    for file in path.glob("*.safetensors"):
        load_model(file)
    if not (path / "last.ckpt").is_file():
        return "before the first checkpoint"
    return (
        "within an epoch"
        if torch.load(path / "last.ckpt", weights_only=True)["step"]
        else "between epochs"
    )


if __name__ == "__main__":
    run(main, parse_args())
