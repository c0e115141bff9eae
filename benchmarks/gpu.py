"""Measure training and inference of Swin-L-384 on an NVIDIA GPU: one command, 25 minutes at most.

    python benchmarks/gpu.py --json gpu.json             the whole table
    python benchmarks/gpu.py --device cpu --tiny         the same steps with a tiny model, untimed

Random weights and synthetic faces, no network. Training is train.py's own epoch and inference is
the Predictor, both reading photos from files; "bare" is the same compiled model on a batch that
stays on the device. Prints a Markdown table for docs/speed.md after the last case. A case that
fails is named in the table, the others go on, and the exit status is 1.
"""

import argparse
import gc
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import first_line  # noqa: E402
from core.files import write_json  # noqa: E402

SWIN = "SwinTransformerLarge384"


def parse_args() -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    p.add_argument("--tiny", action="store_true", help="test_vit on few photos, to try the script")
    p.add_argument("--batch_size", type=int, help="photos per training step (default: 64; tiny: 4)")
    p.add_argument("--steps", type=int, help="training steps in an epoch (default: 40; tiny: 2)")
    p.add_argument("--repeats", type=int, default=3, help="timed epochs of each case")
    p.add_argument(
        "--cases", default="", metavar="TEXT", help="only cases whose names contain TEXT"
    )
    p.add_argument("--minutes", type=float, default=25, help="start no case after this time")
    p.add_argument("--json", metavar="FILE", help="also write the figures as JSON, after each case")
    args = p.parse_args()
    args.batch_size = args.batch_size or (4 if args.tiny else 64)
    args.steps = args.steps or (2 if args.tiny else 40)
    return args


def main(args) -> int:
    begun = time.perf_counter()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(args, Path(work))
        for name, case in bench.cases():
            if args.cases not in name:
                continue
            if time.perf_counter() - begun > 60 * args.minutes:
                bench.figures["cases"][name] = {"error": "no time left"}
                continue
            started = time.perf_counter()
            try:
                figures = case()
            except Exception as error:  # one case must not lose the others' figures
                figures = {"error": f"{type(error).__name__}: {first_line(error)[:200]}"}
            figures["seconds"] = time.perf_counter() - started
            bench.figures["cases"][name] = figures
            print(f"{name}: {figures}", flush=True)
            if args.json:
                write_json(Path(args.json), bench.figures)
        print(f"\n{table(bench.figures)}")
    return int(any("error" in figures for figures in bench.figures["cases"].values()))


class Bench:
    """The data, the device and the cases; `figures` is what is written."""

    def __init__(self, args, work: Path):
        import torch

        import dataset
        from core import device
        from core.processes import cores
        from training import startup

        self.args, self.work = args, work
        self.kind = device.accelerator(args.device)
        people = "12" if args.tiny else "40"
        size = ["48", "64"] if args.tiny else ["384", "512"]
        flags = ["--people", people, "--eval_people", "2", "--size", *size]
        command = [sys.executable, ROOT / "prepare.py", "sample", work / "sample", *flags]
        subprocess.run(command, check=True, capture_output=True)
        self.frame = dataset.read_train(work / "sample" / "train")
        self.options = self.settings()
        self.fabric = startup.launch(self.options)
        cuda = self.kind == "cuda"
        self.half = "fp16"
        if not cuda or torch.cuda.get_device_capability() >= (8, 0):
            self.half = "bf16"
        self.figures = {
            "device": torch.cuda.get_device_name() if cuda else self.kind,
            "cores": cores(),
            "torch": torch.__version__,
            "model": self.options.model,
            "batch_size": args.batch_size,
            "steps": args.steps,
            "repeats": args.repeats,
            "cases": {},
        }

    def settings(self, *flags):
        from training import settings

        model = ["test_vit", "--resize", "160", "160"] if self.args.tiny else [SWIN]
        common = (
            "--pretrained no --val_ratio 0 --check_photos no --logger csv --report no --freeze 0 "
            "--cache yes --epochs 9 --offsets no"
        ).split()
        size = ["--batch_size", str(self.args.batch_size), "--accelerator", self.kind]
        folder = ["--data_dir", str(self.work / "sample" / "train")]
        return settings.parse(["--model", *model, *common, *size, *folder, *flags])

    def cases(self):
        half, other = self.half, "fp16" if self.kind == "cuda" and self.half == "bf16" else "fp32"
        yield f"training, {half}", lambda: self.training(half)
        yield f"training, {half}, attention not fused", lambda: self.training(half, fused=False)
        yield f"training, {half}, checkpointing", lambda: self.training(half, checkpointing=True)
        yield f"training, {other}", lambda: self.training(other)
        yield "inference, fp16", lambda: self.inference("no")
        yield "a small CNN's update", self.updates
        yield "fp16 overflow", self.overflow
        yield "killed and resumed", self.resume
        # torch.compile takes minutes: last, so that it cannot take the others' time
        yield f"training, {half}, compiled", lambda: self.training(half, compiled=True)
        yield "inference, fp16, compiled", lambda: self.inference("yes")
        if self.kind == "cuda" and self.fabric.device.type == "cuda" and self.gpus() > 1:
            yield f"training, {half}, two GPUs", self.two_gpus

    def gpus(self) -> int:
        import torch

        return torch.cuda.device_count()

    # ------------------------------------------------------------------------ training
    def set_up(self, precision, **choices):
        """train.py's own objects for a new model, its choices given instead of measured."""
        import pandas as pd
        import torch

        import train
        from training.data import Data
        from training.startup import input_choices
        from training.stop import Stop

        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
        need = self.args.batch_size * self.args.steps
        copies = [self.frame] * -(-need // len(self.frame))
        frame = pd.concat(copies, ignore_index=True).head(need)
        split = pd.DataFrame({"person": frame["person"].unique(), "fold": -1})
        data = Data(frame, split, self.work / "sample" / "train", lambda: None)
        plan = {"precision": precision, "channels_last": True, "reason": "given", "compiled": False}
        plan |= input_choices(self.options, frame) | choices
        return train.Training(self.options, data, 0, self.work, self.fabric, Stop(1), plan)

    def training(self, precision, fused=True, checkpointing=False, compiled=False) -> dict:
        import train
        from core import memory
        from training.checkpoint import State

        t = self.set_up(precision, checkpointing=checkpointing, compiled=compiled)
        if not fused:
            for module in t.model.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = False
        state, speeds = State(), []
        for epoch in range(1 + self.args.repeats):  # the first warms up and fills the cache
            train.train_epoch(t, state)
            if epoch:
                speeds.append(state.rows[-1]["images_per_s"])
        figures = self.speed(t.model, speeds, precision, passes=3)
        if self.kind == "cuda":
            figures["peak_gb"] = memory.peak_memory(self.fabric.device)
        if compiled:
            bare = self.bare(t)
            figures["bare_images_per_s"] = bare
            figures["of_bare"] = figures["images_per_s"] / bare
        else:
            model = t.model.to("cpu")
            keywords = (precision, self.kind, self.options, t.plan.resize, 1)
            fixed, photo = memory.step_bytes(model, *keywords)
            figures["estimated_gb"] = (fixed + photo * self.args.batch_size) / 1e9
        return figures

    def bare(self, t) -> float:
        """Images/s of the model alone: forward, backward and update of one batch on the device."""
        import torch

        from training.step import total_loss

        shape = (self.args.batch_size, 3, *t.plan.resize)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.fabric.device)
        images = images.contiguous(memory_format=torch.channels_last)
        rows = torch.arange(self.args.batch_size, device=self.fabric.device)
        targets, speeds = t.photos.targets[rows], []
        for _ in range(1 + self.args.repeats):
            begun = time.perf_counter()
            for _ in range(self.args.steps):
                output = t.net(images, return_years=True)
                loss = total_loss(output, targets, None, t.criterion, t.args)
                self.fabric.backward(loss)
                t.optimizer.step()
                t.optimizer.zero_grad()
            loss.item()  # waits for the device
            seconds = time.perf_counter() - begun
            speeds.append(self.args.steps * self.args.batch_size / seconds)
        return statistics.median(speeds[1:])

    def speed(self, model, speeds, precision, passes: int) -> dict:
        from benchmarks.peak import ceiling, flops

        figures = {"images_per_s": statistics.median(speeds), "spread": [min(speeds), max(speeds)]}
        if not self.args.tiny:
            work = passes * flops(model, model.description["resize"])
            limit = ceiling(self.fabric.device, precision)
            figures["mfu"] = work * figures["images_per_s"] / limit
        return figures

    # ------------------------------------------------------------------------ inference
    def inference(self, compiled: str) -> dict:
        import torch

        from prediction import Predictor
        from prediction.model_file import save_model
        from training.startup import build_model, input_choices

        gc.collect()
        torch._dynamo.reset()
        model = build_model(self.options, input_choices(self.options, self.frame))
        file = self.work / "best.safetensors"
        save_model(model, file)
        precision = "fp16" if self.kind == "cuda" else "fp32"
        size = 8 if self.args.tiny else 128
        predictor = Predictor(
            file, self.kind, precision, tta=[], batch_size=size, compile=compiled, layout="last"
        )
        count = 16 if self.args.tiny else 4096
        paths = [self.frame["path"][row % len(self.frame)] for row in range(count)]
        speeds = []
        for _ in range(1 + self.args.repeats):
            begun = time.perf_counter()
            predictor.predict(paths)
            speeds.append(count / (time.perf_counter() - begun))
        return self.speed(model, speeds[1:], precision, passes=1)

    def updates(self) -> dict:
        from benchmarks.updates import update_times

        often = (-(-self.args.steps // 10), self.args.repeats)
        device = self.fabric.device
        return {"update_ms": update_times(self.frame, device, self.half, self.args.tiny, *often)}

    # ------------------------------------------------------------------------ robustness
    def overflow(self) -> dict:
        """A loss scale that is far too high: updates left out, and weights that stay finite."""
        import torch

        import train
        from training.checkpoint import State

        t, state = self.set_up("fp16"), State()
        t.fabric.strategy.precision.scaler._init_scale = 2.0**30
        for _ in range(3 if self.args.tiny else 1):
            train.train_epoch(t, state)
        finite = all(bool(torch.isfinite(p).all()) for p in t.model.parameters())
        return {
            "updates_left_out": sum(row["fp16_overflows"] for row in state.rows),
            "weights_finite": finite,
        }

    def resume(self) -> dict:
        """Two runs left alone and one killed and resumed: largest difference of a weight."""
        from safetensors.torch import load_file

        model = "test_vit" if self.args.tiny else "swin_tiny_patch4_window7_224"
        size = "160" if self.args.tiny else "224"
        flags = (
            f"--model {model} --resize {size} {size} --pretrained no --epochs 2 --batch_size 8 "
            f"--check_photos no --logger csv --report no --ema 0.9 --workers 1 --precision "
            f"{'fp32' if self.kind == 'cpu' else self.half} --layout last --val_ratio 0.2"
        ).split()
        folders = ["--data_dir", self.work / "sample" / "train", "--model_dir", self.work / "runs"]
        command = [sys.executable, ROOT / "train.py", *flags, *folders, "--accelerator", self.kind]

        def trained(name, *more):
            done = subprocess.run(
                [*command, "--name", name, *more], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            return load_file(self.work / "runs" / name / "best.safetensors")

        def difference(one, other):
            return max(float((one[k].float() - other[k].float()).abs().max()) for k in one)

        whole, again = trained("whole"), trained("again")
        process = subprocess.Popen([*command, "--name", "cut"], stdout=subprocess.DEVNULL)
        table_file = self.work / "runs" / "cut" / "metrics.csv"
        while process.poll() is None and not table_file.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        resumed = trained("cut", "--resume")
        return {
            "status_after_sigterm": status,
            "difference_of_two_runs": difference(whole, again),
            "difference_after_resume": difference(whole, resumed),
        }

    def two_gpus(self) -> dict:
        """train.py on two GPUs, as train.sh starts it."""
        import pandas as pd

        launcher = ["-P", ROOT / "core" / "launch.py", "--standalone", "--nproc_per_node=2"]
        flags = (
            f"--model {self.options.model} --pretrained no --epochs 3 --check_photos no "
            f"--val_ratio 0 --batch_size {self.args.batch_size} --devices 2 --logger csv "
            "--report no --name two"
        ).split()
        folders = ["--data_dir", self.work / "sample" / "train", "--model_dir", self.work / "runs"]
        command = [sys.executable, *launcher, ROOT / "train.py", *flags, *folders]
        subprocess.run(command, check=True, capture_output=True)
        speeds = pd.read_csv(self.work / "runs" / "two" / "metrics.csv")["images_per_s"][1:]
        return {"images_per_s": speeds.median(), "spread": [speeds.min(), speeds.max()]}


def table(figures: dict) -> str:
    """The figures as Markdown."""
    lines = [
        f"{figures['model']} on {figures['device']} ({figures['cores']} CPU cores, torch "
        f"{figures['torch']}); batch {figures['batch_size']}, median of {figures['repeats']} "
        f"epochs of {figures['steps']} steps (lowest to highest)",
        "",
        "| case | images/s | MFU | peak memory, GB (estimated) | |",
        "|---|---|---|---|---|",
    ]
    for name, case in figures["cases"].items():
        cells = [name, "", "", "", case.get("error", "")]
        if "images_per_s" in case:
            low, high = case["spread"]
            cells[1] = f"{case['images_per_s']:,.0f} ({low:,.0f} to {high:,.0f})"
            cells[2] = f"{case['mfu']:.0%}" if "mfu" in case else ""
        if "peak_gb" in case:
            estimated = f" ({case['estimated_gb']:.1f})" if "estimated_gb" in case else ""
            cells[3] = f"{case['peak_gb']:.1f}{estimated}"
        if "of_bare" in case:
            cells[4] = f"{case['of_bare']:.2f} of bare ({case['bare_images_per_s']:,.0f})"
        if "update_ms" in case:
            cells[4] = ", ".join(f"{name} {ms:.1f} ms" for name, ms in case["update_ms"].items())
        if "updates_left_out" in case:
            finite = "finite" if case["weights_finite"] else "NOT finite"
            cells[4] = f"{case['updates_left_out']} updates left out, weights {finite}"
        if "difference_after_resume" in case:
            cells[4] = (
                f"largest difference of a weight {case['difference_after_resume']:.1e}; of two "
                f"uninterrupted runs {case['difference_of_two_runs']:.1e}"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, parse_args())
