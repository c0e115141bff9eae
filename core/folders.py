"""Where photos, runs and submissions are: flags, SageMaker's variables, defaults.

Standard library only.
"""

import contextlib
import os
from pathlib import Path

from core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SAGEMAKER = Path("/opt/ml/input/data")
SAMPLE = Path("sample")


# What Pillow reads (HEIC by pillow-heif). Documents and films that it opens too are no photos.
IMAGE_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif"),
    *(".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tga", ".qoi", ".sgi", ".rgb", ".pcx", ".psd", ".ico", ".icns", ".dds"),
}


DRAWN_MARK = "drawn.json"  # marks the root of a sample set of synthetic faces


def run_parts(run: Path) -> list[Path]:
    """The run folders of a run's folds or of its members; none if it is a single training."""
    return [*sorted(run.glob("fold-*")), *sorted(run.glob("member-*"))]


def data_folder(flag: str | None, channel: str) -> tuple[Path, str]:
    """The folder of photos for `channel` ("train" or "eval") and where the choice came from.

    A flag beats SM_CHANNEL_TRAIN / SM_CHANNEL_EVAL, which beat SageMaker's own folder, which beats
    the sample set.
    """
    variable = f"SM_CHANNEL_{channel.upper()}"
    if flag:
        return existing_folder(flag, "--data_dir"), "--data_dir"
    if os.environ.get(variable):
        return existing_folder(os.environ[variable], variable), variable
    if (SAGEMAKER / channel).is_dir():
        return SAGEMAKER / channel, "SageMaker's folder"
    if (SAMPLE / channel).is_dir():
        return SAMPLE / channel, f"the sample set, because {variable} is not set"
    raise UserError(
        f"no photos to work on: set {variable} or --data_dir, or make a sample set with "
        f"'python prepare.py sample {SAMPLE}'"
    )


def with_home(path: str | Path) -> Path:
    """`path` with ~ as the home folder; as it is where nobody has one of that name."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def existing_folder(path: str | Path, source: str) -> Path:
    """`path` as a Path; a UserError that names `source` if it is not a folder."""
    path = with_home(path)
    if path.is_dir():
        return path
    what = "is a file, not a folder" if path.exists() else "does not exist"
    raise UserError(f"{source}: {path} {what}; give the folder that holds the photos")


def folder(flag: str | None, *variables: str, default: str) -> Path:
    """The first of the flag, the environment variables and the default, as a Path.

    UserError for an address (s3://...), which would become a folder of that name.
    """
    found = flag or next(filter(None, map(os.environ.get, variables)), default)
    if "://" in str(found):
        raise UserError(
            f"{found}: not a folder on this machine; give one, and copy it there yourself "
            "(SageMaker copies its channels and SM_MODEL_DIR itself)"
        )
    return with_home(found)


def is_drawn(path: Path) -> bool:
    """Whether `path` lies in a sample set of synthetic faces (the mark is in the set's root)."""
    return any(
        (parent / DRAWN_MARK).is_file() for parent in [path, *list(path.resolve().parents)[:2]]
    )


def safe_name(name: str) -> str:
    """`name` if it can name a folder or file inside the model folder, else a UserError."""
    parts = name.split("/")
    # File systems allow 255 bytes, less what the names of temporary files add.
    too_long = any(len(os.fsencode(part)) > 200 for part in parts)
    if (
        too_long
        or any(part in ("", ".", "..") or part.startswith("-") for part in parts)
        or "\\" in name
        or not name.isprintable()
    ):
        raise UserError(
            f"--name: {name[:80]!r} is not a name for a run; use letters, digits, '.', '_' and '-'"
        )
    return name
