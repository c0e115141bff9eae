"""Kill a real training again and again, resume it each time, and compare its end with that of one
left alone.

    python benchmarks/faults.py                 25 kills of one process
    python benchmarks/faults.py --kills 3       the short form that the tests run
    python benchmarks/faults.py --long          100 kills, half of them of two ranks with workers

A small model is trained on the sample set. It is killed at a random time after its start (SIGKILL,
or SIGTERM to the process group), then started again by the same command with `--resume auto`. After
each kill every file under its final name must be whole; the seconds of work lost are shown. At the
end weights and tables must be equal bit for bit. With --long a person is removed now and then
before a resume, which must be refused.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402

FLAGS = (
    "--model test_efficientnet --pretrained no --resize 32 24 --precision fp32 --layout last "
    "--logger csv --report no --mixup 0.3 --half_face 0.3 --ema 0.9 --drop 0.2 --sampling weighted "
    "--criterion f1 --f1_memory 0.5 --accumulate 2 --check_photos no --accelerator cpu"
).split()


def parse_args() -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--kills", type=int, help="how often the training is killed (25; long: 100)")
    p.add_argument("--long", action="store_true", help="half of the kills hit two ranks")
    p.add_argument("--ranks", type=int, default=1, help="processes that train together")
    p.add_argument("--epochs", type=int, default=60)
    p.add_argument("--workers", type=int, default=1, help="loader workers of each rank")
    p.add_argument("--save_interval", type=float, default=0.25, help="seconds between checkpoints")
    p.add_argument("--seed", type=int, default=0, help="seed for the moments of the kills")
    return p.parse_args()


def main(args) -> int:
    kills = args.kills or (100 if args.long else 25)
    half = kills // 2
    cases = [(kills - half, 1), (half, 2)] if args.long else [(kills, args.ranks)]
    with tempfile.TemporaryDirectory() as work:
        flags = "--people 24 --eval_people 2 --size 48 64".split()
        command = [sys.executable, ROOT / "prepare.py", "sample", Path(work) / "sample", *flags]
        subprocess.run(command, check=True, capture_output=True)
        equal = [Harness(args, Path(work), ranks).compare(kills) for kills, ranks in cases]
    return int(not all(equal))


class Harness:
    """Trainings by `ranks` processes; `whole` is left alone, `cut` is killed."""

    def __init__(self, args, work: Path, ranks: int):
        self.args, self.work, self.ranks = args, work, ranks
        self.folder = work / f"{ranks}"
        self.moments = random.Random(args.seed)
        self.kills, self.places, self.lost, self.refused = Counter(), Counter(), [], 0
        launcher = ["-P", ROOT / "core" / "launch.py", "--standalone", f"--nproc_per_node={ranks}"]
        self.command = [
            *(sys.executable, *(launcher if ranks > 1 else []), ROOT / "train.py", *FLAGS),
            *("--data_dir", work / "sample" / "train", "--model_dir", self.folder),
            *("--devices", str(ranks), "--batch_size", str(16 // ranks)),
            *("--epochs", str(args.epochs), "--workers", str(args.workers)),
            *("--save_interval", str(args.save_interval / 60)),
        ]

    def start(self, *flags) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *flags) -> None:
        process = self.start(*flags)
        said, _ = process.communicate()
        if process.returncode:
            raise UserError(f"a run ended with {process.returncode}: {said[-500:]}")

    def compare(self, kills: int) -> bool:
        """Kill `kills` times; whether the end is that of the run left alone."""
        start_up, seconds = self.leave_alone()
        for number in range(kills):
            if self.args.long and number % 10 == 5:
                self.change_data()
            how = signal.SIGTERM if number % (2 if self.args.long else 3) else signal.SIGKILL
            # Some kills hit the start-up; together they leave the run short of its end.
            latest = start_up + 1.3 * (seconds - start_up) / kills
            self.kill(how, number, self.moments.uniform(0.7 * start_up, latest))
        self.finish("--name", "cut", "--resume", "auto")
        return self.report()

    def leave_alone(self) -> tuple[float, float]:
        """Train "whole" to its end: seconds until its first checkpoint, and in all."""
        begun = time.perf_counter()
        process = self.start("--name", "whole")
        checkpoint = self.folder / "whole" / "last.ckpt"
        while process.poll() is None and not checkpoint.is_file():
            time.sleep(0.05)
        start_up = time.perf_counter() - begun
        said, _ = process.communicate()
        if process.returncode:
            raise UserError(f"a run ended with {process.returncode}: {said[-500:]}")
        seconds = time.perf_counter() - begun
        print(
            f"{self.ranks} ranks, left alone: {self.args.epochs} epochs in {seconds:.0f} s, "
            f"of which start-up {start_up:.0f} s",
            flush=True,
        )
        return start_up, seconds

    def kill(self, how: signal.Signals, number: int, after: float) -> None:
        begun = time.time()
        process = self.start("--name", "cut", "--resume", "auto")
        time.sleep(after)
        killed = time.time()
        if process.poll() is None:
            signal_all(process, how)
        said, _ = process.communicate()
        # SIGTERM before the training loop has begun ends the process at once: nothing to save.
        expected = {0, -how, 128 + how} if how == signal.SIGTERM else {0, -how}
        if process.returncode not in expected:
            status = f"status {process.returncode}, expected {expected}"
            raise UserError(f"kill {number + 1} ({how.name}): {status}: {said[-500:]}")
        if not process.returncode:
            self.places["after the end"] += 1
            return
        path = self.folder / "cut"
        self.kills[how.name] += 1
        self.places[place(path)] += 1
        saved = (path / "last.ckpt").stat().st_mtime if (path / "last.ckpt").is_file() else 0
        if how == signal.SIGKILL and saved > begun:
            self.lost.append(killed - saved)

    def change_data(self) -> None:
        """Remove a person, see that the run refuses to go on, put the person back."""
        if not (self.folder / "cut" / "config.json").is_file():
            return
        train = self.work / "sample" / "train"
        person, table = sorted((train / "images").glob("0*"))[0], train / "train.csv"
        person.rename(self.work / person.name)
        table.rename(self.work / table.name)
        process = self.start("--name", "cut", "--resume", "auto")
        said, _ = process.communicate()
        (self.work / person.name).rename(person)
        (self.work / table.name).rename(table)
        if process.returncode != 2 or "1 people were removed" not in said:
            raise UserError(f"changed data were not refused, status {process.returncode}: {said}")
        self.refused += 1

    def report(self) -> bool:
        import pandas as pd
        import torch
        from safetensors.torch import load_file

        runs = [self.folder / name for name in ("whole", "cut")]
        whole, cut = (load_file(run / "best.safetensors") for run in runs)
        equal = sum(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
        columns = ["epoch", "lr", "loss", "macro_f1", "accuracy"]
        tables = [pd.read_csv(run / "metrics.csv")[columns] for run in runs]
        same = tables[0].equals(tables[1])
        by = ", ".join(f"{count} by {name}" for name, count in self.kills.items())
        print(f"killed: {sum(self.kills.values())} ({by}); changed data refused: {self.refused}")
        where = ", ".join(f"{what} {count}" for what, count in self.places.items())
        print(f"last checkpoint then: {where}")
        if self.lost:
            print(
                f"work lost by SIGKILL: {max(self.lost):.2f} s at most ({len(self.lost)} kills), "
                f"checkpoints being {self.args.save_interval} s apart"
            )
        print(f"tensors equal bit for bit: {equal} of {len(whole)}; metrics.csv equal: {same}")
        if not same:
            print(tables[0].compare(tables[1], result_names=("whole", "cut")).head(5))
        return same and equal == len(whole)


def signal_all(process: subprocess.Popen, how: signal.Signals) -> None:
    """SIGTERM to the process group, as Slurm sends it; SIGKILL to every process, as a machine that
    is taken away. torchrun starts its ranks in groups of their own."""
    import psutil

    groups = {process.pid}
    if how == signal.SIGKILL:
        groups |= {os.getpgid(child.pid) for child in psutil.Process(process.pid).children()}
    for group in groups:
        os.killpg(group, how)


def place(path: Path) -> str:
    """Where the last checkpoint in `path` is, after checking that every file there is whole."""
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
    stored = torch.load(path / "last.ckpt", weights_only=True)
    if not stored["validated"]:
        return "before validation"
    return "within an epoch" if stored["step"] else "between epochs"


if __name__ == "__main__":
    run(main, parse_args())
