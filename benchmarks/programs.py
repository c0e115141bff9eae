"""Whole programs, timed from outside: train.sh, two trainings at once, ensemble.py vote."""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from core.errors import UserError
from core.folders import ROOT


def processor_times() -> list[int]:
    """The kernel's counters of all cores: user, nice, system, idle, ..., steal (proc(5))."""
    file = Path("/proc/stat")  # Linux
    return list(map(int, file.read_text().split("\n")[0].split()[1:9])) if file.is_file() else []


class Neighbours:
    """Shares of the machine that others took while this process worked in `with` blocks.

    others: other processes here; steal: other virtual machines.
    """

    def __init__(self):
        self.all = self.busy = self.steal = self.own = 0.0

    def __enter__(self):
        self.before, self.times = processor_times(), os.times()

    def __exit__(self, *_):
        now, times = processor_times(), os.times()
        if not now:
            return
        ticks = [b - a for a, b in zip(self.before, now, strict=True)]
        idle = ticks[3] + ticks[4]
        self.all += sum(ticks)
        self.steal += ticks[7]
        self.busy += sum(ticks) - idle - ticks[7]
        own = sum(times[:4]) - sum(self.times[:4])
        self.own += own * os.sysconf("SC_CLK_TCK")

    def shares(self) -> dict[str, float]:
        whole = max(self.all, 1)
        return {"others": max(0.0, self.busy - self.own) / whole, "steal": self.steal / whole}


def job(work: Path, name: str, epochs: int) -> subprocess.Popen:
    """The sample set's training, started as a user starts it, set up already."""
    command = ["sh", ROOT / "train.sh", "--data_dir", work / "small" / "train"]
    command += f"--recipe sample --epochs {epochs} --name {name} --logger csv --report no".split()
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        list(map(str, [*command, "--model_dir", work / "model"])),
        env=environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
    )


def images_per_s(work: Path, name: str) -> float:
    """Median over the epochs from the second on."""
    with (work / "model" / name / "metrics.csv").open() as file:
        return statistics.median(
            float(row["images_per_s"]) for row in list(csv.DictReader(file))[1:]
        )


def jobs(work: Path, epochs: int) -> dict:
    """Seconds from train.sh to the first step; how much slower each of two trainings is."""
    subprocess.run(
        [sys.executable, ROOT / "prepare.py", "sample", work / "small"],
        check=True,
        capture_output=True,
    )
    begun, start_seconds = time.perf_counter(), None
    alone = job(work, "alone", epochs)
    for line in alone.stdout:
        if line.startswith("start-up took"):
            start_seconds = time.perf_counter() - begun
    pair = [] if alone.wait() else [job(work, f"pair{number}", epochs) for number in (1, 2)]
    for process in pair:
        process.communicate()
    if not pair or any(process.returncode for process in pair):
        raise UserError("a training of the sample set failed")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, timm"], check=True)
    imports = time.perf_counter() - begun
    speeds = {name: images_per_s(work, name) for name in ("alone", "pair1", "pair2")}
    slowest = min(speeds["pair1"], speeds["pair2"])
    return {
        "start_seconds": start_seconds,
        "import_seconds": imports,
        "pair_slowdown": speeds["alone"] / slowest,
        "pair_images_per_s": speeds,
    }


def vote(rows: int, work: Path) -> dict:
    """Seconds and peak memory of `ensemble.py vote` on eight CSVs of `rows` predictions."""
    import numpy as np

    generator = np.random.default_rng(0)
    ids = [f"{number:040x}.jpg" for number in range(rows)]
    files = [work / f"member{number}.csv" for number in range(8)]
    for number, file in enumerate(files):
        answers = generator.integers(0, 18, rows)
        file.write_text(
            "ImageID,ans\n"
            + "".join(f"{name},{answer}\n" for name, answer in zip(ids, answers, strict=True))
        )
        file.with_suffix(".json").write_text(
            json.dumps({"kind": "model", "macro_f1": 0.5 + number / 100})
        )
    # By way of a small process: a child's peak begins with the memory of what started it.
    watch = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print(json.dumps([time.perf_counter() - start, peak]))"
    )
    command = [
        sys.executable,
        "-c",
        watch,
        ROOT / "ensemble.py",
        "vote",
        *files,
        "--output",
        work / "vote.csv",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"ensemble.py vote failed: {done.stderr.strip()[-200:]}")
    seconds, peak = json.loads(done.stdout)
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6),
    }
