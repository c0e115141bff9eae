"""Inference on folders of 1, 4 and 16 times as many photos, and by several processes.

    python benchmarks/folders.py sizes --checkpoint small.safetensors --photos photos/ --count 10000
    python benchmarks/folders.py processes --checkpoint small.safetensors --photos photos/

`sizes` links the photos of a folder under as many names as are asked for and runs inference.py on
them: seconds, processor time and peak memory should grow as the photos do, and memory by no more
than the tables of paths and probabilities. `processes` compares one process on one core with one
process on each of several cores, in turn.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.listing import photos_in  # noqa: E402
from core.processes import cores  # noqa: E402


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    for name, command in (("sizes", sizes), ("processes", processes)):
        c = commands.add_parser(name)
        c.add_argument("--checkpoint", required=True, metavar="FILE", help="model file or ONNX")
        c.add_argument(
            "--photos", type=Path, required=True, metavar="DIR", help="folder of photos to link to"
        )
        c.add_argument("--count", type=int, default=10_000, help="photos in the smallest folder")
        c.add_argument(
            "--times",
            type=int,
            nargs="+",
            default=[1, 4, 16],
            help="sizes of the folders, as multiples of --count",
        )
        c.add_argument("--repeats", type=int, default=1)
        c.add_argument(
            "--ranks", type=int, default=cores(), help="number of processes, one core each"
        )
        c.set_defaults(command=command)
    return p.parse_args(arguments)


def linked(photos: list[Path], folder: Path, count: int) -> Path:
    """A folder with `count` names for `photos`."""
    folder.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        os.link(photo, folder / f"{number:08}{photo.suffix}")
    return folder


def predicted(args, folder: Path, output: Path, ranks: int = 1) -> dict:
    """Seconds, processor seconds, peak memory in MB and photos/s of inference.py on a folder."""
    start = [sys.executable]
    more = ["--devices", str(ranks), "--accelerator", "cpu", "--layout", "last"]
    if ranks > 1:
        start += [ROOT / "core" / "launch.py", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*start, ROOT / "inference.py", "--checkpoint", args.checkpoint, *more, "--overwrite"]
    command += ["--data_dir", folder, "--output_dir", output, "--output_name", "a"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
        said = job.stdout.read()
        _, status, used = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        raise SystemExit(said)
    return {
        "seconds": time.perf_counter() - begun,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss / 1000,
        "speed": float(re.search(r"([\d,]+) photos/s", said).group(1).replace(",", "")),
    }


def sizes(args) -> int:
    photos = photos_in(args.photos)
    print("photos  seconds  processor seconds  peak MB  photos/s")
    with tempfile.TemporaryDirectory(dir=args.photos.parent) as temporary:  # links stay on a disk
        for times in args.times:
            folder = linked(photos, Path(temporary) / str(times), times * args.count)
            for _ in range(args.repeats):
                r = predicted(args, folder, Path(temporary) / "output")
                print(
                    f"{times * args.count:9,}  {r['seconds']:7.1f}  {r['processor']:7.1f}  "
                    f"{r['memory']:7.0f}  {r['speed']:7.0f}",
                    flush=True,
                )
    return 0


def processes(args) -> int:
    photos, speeds = photos_in(args.photos), {1: [], args.ranks: []}
    with tempfile.TemporaryDirectory(dir=args.photos.parent) as temporary:
        folder = linked(photos, Path(temporary) / "photos", args.count)
        for _ in range(args.repeats):
            for ranks, of_ranks in speeds.items():
                r = predicted(args, folder, Path(temporary) / "output", ranks)
                of_ranks.append(r["speed"])
                print(f"{ranks} x 1 thread: {r['speed']:.0f} photos/s", flush=True)
    one, several = (statistics.median(of_ranks) for of_ranks in speeds.values())
    print(
        f"{args.ranks} processes: {several / one:.2f} times one, {several / one / args.ranks:.2f}"
    )
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.command, ARGS)
