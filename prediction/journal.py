"""The probabilities of an unfinished job over a folder, on disk, so that `--resume` continues with
them.
"""

import hashlib
import json
import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np

from core.errors import UserError, counted
from core.files import digest_of_file, lock, read_json, write_json
from core.labels import CLASSES
from core.processes import on_rank_zero
from core.progress import say

ROW = CLASSES * 4  # bytes: float32
AT_ONCE = 100_000  # rows read


def describe(predictor, frame, crop_faces: bool, detector: Path | None) -> dict:
    """All that the probabilities of a job over a folder depend on, by what a user calls it."""
    options = predictor.options
    return {
        "photos": digest_of_lines(chain(frame["ImageID"], frame["path"])),
        "models": [digest_of_file(file) for file in predictor.files],
        "--precision": options.precision,
        "--tta": options.tta,
        "--offsets": options.offsets,
        "--batch_size": options.batch_size,
        "--layout": options.layout,
        "--crop_faces": crop_faces,
        "--face_detector": digest_of_file(detector) if detector else None,
        "devices": predictor.where(),
    }


def journal_path(output: Path) -> Path:
    """The folder beside a submission that holds what is done of it."""
    return output.with_name(f"{output.name}.unfinished")


def exists(folder: Path) -> bool:
    """Whether there is something to resume."""
    return (folder / "job.json").is_file()


class Journal:
    """What is predicted so far: job.json (what the job is, what was measured) and, for each model,
    a file of rows (18,) float32 in the order of the photos.

    A row is in the file as soon as its block is done, and is never changed. `job` describes
    everything that the probabilities depend on. With `resume` the rows of the same job are kept,
    UserError if they are of another one; else they are removed. All ranks of a distributed run read
    it, `fabric`'s first one writes it.
    """

    def __init__(self, folder: Path, job: dict, resume: bool, fabric=None):
        self.folder, self.fabric = folder, fabric
        self.is_first = fabric is None or fabric.is_global_zero
        self.job, self.streams, self.lock = job, {}, None
        if fabric is None:
            self.choices = self.open(resume)
        else:
            self.choices = on_rank_zero(fabric, self.open, resume)

    def open(self, resume: bool) -> dict:
        """Make the folder, or keep what is in it; what was measured for each model."""
        choices = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock(self.folder / "lock")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror})") from None
        if self.lock is None:
            raise UserError(
                f"{self.folder}: another process is at work on it; give another --output_name"
            )
        if resume and exists(self.folder):
            known = read_json(self.folder / "job.json")
            other = [key for key in self.job if known.get("job", {}).get(key) != self.job[key]]
            if other:
                raise UserError(
                    f"--resume: what is in {self.folder} was predicted with other "
                    f"{' and '.join(other)}; give those, or start anew without --resume"
                )
            choices = known.get("measured", {})
        else:
            rows = list(self.folder.glob("*.f32"))
            if rows:
                say(f"{self.folder}: an unfinished job, begun anew; --resume would have gone on")
            for path in rows:
                path.unlink()
        self.write(choices)
        return choices

    def write(self, choices: dict) -> None:
        write_json(self.folder / "job.json", {"job": self.job, "measured": choices})

    def file(self, model: int) -> Path:
        return self.folder / f"{model}.f32"

    def begin(self, model: int) -> tuple[int, dict | None]:
        """How many rows of a model are there already, and what was measured when they were made."""
        rows = 0
        if self.is_first:
            stream = self.file(model).open("ab")
            rows = stream.tell() // ROW
            stream.truncate(rows * ROW)  # half a row of a process that was killed
            self.streams[model] = stream
            if rows:
                say(f"resuming: {counted(rows, 'photo is', 'photos are')} done already")
        if self.fabric is not None:
            rows = self.fabric.broadcast(rows)
        return rows, self.choices.get(str(model))

    def read(self, model: int, rows: int):
        """Yield the first `rows` rows of a model, some at a time."""
        with self.file(model).open("rb") as stream:
            for start in range(0, rows, AT_ONCE):
                count = min(AT_ONCE, rows - start)
                content = stream.read(count * ROW)
                yield np.frombuffer(content, np.float32).reshape(count, CLASSES)

    def measured(self, model: int, choice: dict) -> None:
        if self.is_first and choice != self.choices.get(str(model)):
            self.choices[str(model)] = choice
            self.write(self.choices)

    def add(self, model: int, rows: np.ndarray) -> None:
        """Append rows (n, 18), flushed to the disk."""
        if self.is_first:
            stream = self.streams[model]
            try:
                stream.write(np.ascontiguousarray(rows, np.float32).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                raise UserError(
                    f"{self.file(model)}: cannot be written ({error.strerror})"
                ) from None

    def __enter__(self):
        return self

    def __exit__(self, error, *_) -> None:
        """Keep the folder if the job was interrupted; remove it if it is done."""
        for stream in filter(None, [*self.streams.values(), self.lock]):
            stream.close()
        if self.is_first and error is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def digest_of(content) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def digest_of_lines(lines) -> str:
    """SHA-256 of texts, one a line."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(os.fsencode(line) + b"\n")
    return sha.hexdigest()
