"""Kill real trainings again and again, resume them each time, and compare their ends with that of
one left alone.

    python benchmarks/faults.py                 25 kills of one process
    python benchmarks/faults.py --kills 3       the short form that the tests run
    python benchmarks/faults.py --long          100 kills, half of them of two ranks with workers

A small model is trained on the sample set. It is killed at a random moment (a quarter of the kills
while it starts, the others after its first checkpoint), then started again by the same command with
`--resume auto`; when it has come to its end, another one is begun. SIGTERM goes to the process
group or to every process, SIGKILL to every process or, of several ranks, to one. After each kill
every file under its final name must be whole; the seconds of work lost are shown. At each end
weights and tables must be equal bit for bit. With --long a person is removed now and then before a
resume, which must be refused, and of ten starts nine are forks of a process that has imported
train.py already, which takes a tenth of the time; every tenth is the command that users type.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.forked import Forked  # noqa: E402
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
    p.add_argument("--epochs", type=int, default=16)
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
        if args.long:
            import train  # noqa: F401  # once, for all forks
        equal = [Harness(args, Path(work), ranks).compare(kills) for kills, ranks in cases]
    return int(not all(equal))


class Harness:
    """Trainings by `ranks` processes; `whole` is left alone, `cut` is killed."""

    def __init__(self, args, work: Path, ranks: int):
        self.args, self.work, self.ranks = args, work, ranks
        self.folder = work / f"{ranks}"
        self.moments = random.Random(args.seed)
        self.kills, self.places, self.lost, self.saving = Counter(), Counter(), [], []
        self.refused = self.starts = 0
        self.launcher = [sys.executable]
        if ranks > 1:
            launch = ROOT / "core" / "launch.py"
            self.launcher += ["-P", launch, "--standalone", f"--nproc_per_node={ranks}"]
        self.flags = [
            *(*FLAGS, "--data_dir", str(work / "sample" / "train")),
            *("--model_dir", str(self.folder)),
            *("--devices", str(ranks), "--batch_size", str(16 // ranks)),
            *("--epochs", str(args.epochs), "--workers", str(args.workers)),
            *("--save_interval", str(args.save_interval / 60)),
        ]

    def start(self, *flags) -> subprocess.Popen | Forked:
        self.starts += 1
        if self.args.long and self.starts % 10:
            return Forked([*self.flags, *flags], self.ranks, self.work / "said")
        return subprocess.Popen(
            [*self.launcher, ROOT / "train.py", *self.flags, *flags],
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
        """Kill `kills` times, in as many runs as that takes; whether all end as the one left alone.

        A run that had ended before its kill does not count.
        """
        start_up, seconds = self.leave_alone()
        equal = []
        while sum(self.kills.values()) < kills:
            name = f"cut{len(equal)}"
            ended = False
            while sum(self.kills.values()) < kills and not ended:
                if self.args.long and sum(self.kills.values()) % 10 == 5:
                    self.change_data(name)
                ended = not self.kill(name, start_up, (seconds - start_up) / 8)
            self.finish("--name", name, "--resume", "auto")
            equal.append(self.is_equal(name))
        self.report(len(equal))
        return all(equal)

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

    def kill(self, name: str, start_up: float, pause: float) -> bool:
        """Start the run, kill it at a random moment; False if it had ended before."""
        path, begun = self.folder / name, time.time()
        process = self.start("--name", name, "--resume", "auto")
        if isinstance(process, Forked) == self.args.long and self.moments.random() < 0.25:
            time.sleep(self.moments.uniform(0, start_up))
        else:
            while process.poll() is None and saved_at(path) < begun:
                time.sleep(0.01)
            time.sleep(self.moments.uniform(0, pause))
        ways = ["SIGKILL", "SIGTERM to the group", "SIGKILL", "SIGTERM to all"]
        ways += ["SIGKILL to one rank"] * (self.ranks > 1)
        how = ways[sum(self.kills.values()) % len(ways)]
        killed = time.time()
        if process.poll() is None:
            send(process, how)
        try:
            said, _ = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            raise UserError(f"{how}: a process still runs after 90 s") from None
        ended = not process.returncode
        # SIGTERM before the training loop has begun ends the process at once: nothing to save.
        # Of several ranks the one that saw its peer go may report first.
        expected = {-15, 143} if "SIGTERM" in how else {-9}
        if not (ended or process.returncode in expected or "one rank" in how):
            raise UserError(f"{how}: status {process.returncode}, expected {expected}: {said}")
        if ended:
            self.places["after the end"] += 1
            return False
        self.kills[how] += 1
        self.places[place(path)] += 1
        if "all saved" in said:
            self.saving.append(time.time() - killed)
        if "SIGKILL" in how and saved_at(path) > begun:
            self.lost.append(killed - saved_at(path))
        return True

    def change_data(self, name: str) -> None:
        """Remove a person, see that the run refuses to go on, put the person back."""
        if not (self.folder / name / "config.json").is_file():
            return
        train = self.work / "sample" / "train"
        person, table = sorted((train / "images").glob("0*"))[0], train / "train.csv"
        person.rename(self.work / person.name)
        table.rename(self.work / table.name)
        process = self.start("--name", name, "--resume", "auto")
        said, _ = process.communicate()
        (self.work / person.name).rename(person)
        (self.work / table.name).rename(table)
        if process.returncode != 2 or "1 people were removed" not in said:
            raise UserError(f"changed data were not refused, status {process.returncode}: {said}")
        self.refused += 1

    def is_equal(self, name: str) -> bool:
        import pandas as pd
        import torch
        from safetensors.torch import load_file

        runs = [self.folder / run for run in ("whole", name)]
        whole, cut = (load_file(run / "best.safetensors") for run in runs)
        equal = sum(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
        columns = ["epoch", "lr", "loss", "macro_f1", "accuracy"]
        tables = [pd.read_csv(run / "metrics.csv")[columns] for run in runs]
        same = tables[0].equals(tables[1])
        print(
            f"tensors equal bit for bit: {equal} of {len(whole)}; metrics.csv equal: {same}",
            flush=True,
        )
        if not same:
            print(tables[0].compare(tables[1], result_names=("whole", "cut")).head(5))
        return same and equal == len(whole)

    def report(self, runs: int) -> None:
        by = ", ".join(f"{count} by {name}" for name, count in self.kills.items())
        print(
            f"killed: {sum(self.kills.values())} in {runs} runs ({by}); changed data refused: "
            f"{self.refused}"
        )
        where = ", ".join(f"{what} {count}" for what, count in self.places.items())
        print(f"last checkpoint then: {where}")
        if self.saving:
            print(
                f"SIGTERM to the end, all saved: {max(self.saving):.1f} s at most, median "
                f"{statistics.median(self.saving):.1f} ({len(self.saving)} times)"
            )
        if self.lost:
            print(
                f"work lost by SIGKILL: {max(self.lost):.2f} s at most, median "
                f"{statistics.median(self.lost):.2f} ({len(self.lost)} kills), checkpoints being "
                f"{self.args.save_interval} s apart"
            )


def saved_at(path: Path) -> float:
    """When the last checkpoint in `path` was written; 0: never."""
    try:
        return (path / "last.ckpt").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def send(process, how: str) -> None:
    """SIGTERM to the group, as systemd and Ctrl-C send it, or to all processes, as Slurm does;
    SIGKILL to all, as a machine that is taken away, or to one rank, as the kernel does when memory
    is short. torchrun starts its ranks in groups of their own."""
    number = signal.SIGTERM if "SIGTERM" in how else signal.SIGKILL
    if how == "SIGTERM to the group" and isinstance(process, subprocess.Popen):
        os.killpg(process.pid, number)
        return
    ranks = process.ranks if isinstance(process, Forked) else children(process.pid)
    if how == "SIGKILL to one rank" and ranks:
        os.kill(ranks[-1], number)
        return
    for pid in {process.pid, *ranks}:
        with contextlib.suppress(ProcessLookupError):  # ended in between
            os.killpg(os.getpgid(pid), number)


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


def place(path: Path) -> str:
    """Where the last checkpoint in `path` is, after checking that every file there is whole.

    Hidden files are what a killed process was writing.
    """
    import json

    import pandas as pd
    import torch

    from prediction.model_file import load_model

    for file in path.glob("[!.]*.json"):
        json.loads(file.read_text(encoding="utf-8"))
    for file in path.glob("[!.]*.csv"):
        pd.read_csv(file)
    for file in path.glob("[!.]*.safetensors"):
        load_model(file)
    if not (path / "last.ckpt").is_file():
        return "before the first checkpoint"
    stored = torch.load(path / "last.ckpt", weights_only=True)
    if not stored["validated"]:
        return "before validation"
    return "within an epoch" if stored["step"] else "between epochs"


if __name__ == "__main__":
    run(main, parse_args())
