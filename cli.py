"""What every script shares before anything heavy is imported: folders from flags and environment, errors in one line,
files that are whole or absent. Standard library only, so that `--help` answers at once.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import textwrap
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SAGEMAKER = Path("/opt/ml/input/data")
SAMPLE = Path("sample")
IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # of photos in a folder without a list
VIEWS = ("flip", "crops", "scales")  # what an answer can be averaged over: transforms.views
DRAWN_MARK = "drawn.json"  # prepare.py leaves it in the root of every sample set it draws


class UserError(Exception):
    """Something the person who typed the command can put right: shown as one line, exit status 2."""


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, as everything else here does."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help says what it takes\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default, keeps the lines of commands and examples, which are indented, and fills the paragraphs between them."""

    def _get_help_string(self, action):
        if action.default in (None, [], False) or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _fill_text(self, text, width, indent):
        blocks = groupby(text.splitlines(), key=lambda line: "line" if line.startswith(" ") else bool(line))
        return "\n".join(textwrap.fill(" ".join(lines), width) if of_words is True else "\n".join(lines)
                         for of_words, lines in blocks)  # fmt: skip


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run(main, args) -> None:
    """Call `main(args)` and end the process: 0, 2 with one line for a `UserError`, 130 for Ctrl-C."""
    try:
        status = main(args)
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print(f"\n{Path(sys.argv[0]).name}: stopped by Ctrl-C", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status or 0)


def _tell_what_is_missing(kind, error, trace) -> None:
    """A package of requirements.txt that this Python has not: one line instead of a traceback (sys.excepthook)."""
    if kind is ModuleNotFoundError:
        venv = ROOT / ".venv" / "bin" / "python"
        way = f"use the one that set-up made, {venv}" if venv.is_file() else "'sh train.sh' installs all that is needed"
        print(f"{Path(sys.argv[0]).name}: this Python ({sys.executable}) has no {error.name}; {way}", file=sys.stderr)
        raise SystemExit(2)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell_what_is_missing


def data_folder(flag: str | None, channel: str) -> tuple[Path, str]:
    """The folder of photos for `channel` ("train" or "eval") and where the choice came from.

    A flag beats SM_CHANNEL_TRAIN / SM_CHANNEL_EVAL, which beat SageMaker's own folder, which beats the drawn sample.
    """
    variable = f"SM_CHANNEL_{channel.upper()}"
    if flag:
        return existing_folder(flag, "--data_dir"), "--data_dir"
    if os.environ.get(variable):
        return existing_folder(os.environ[variable], variable), variable
    if (SAGEMAKER / channel).is_dir():
        return SAGEMAKER / channel, "SageMaker's folder"
    if (SAMPLE / channel).is_dir():
        return SAMPLE / channel, f"the drawn sample, since {variable} is not set"
    raise UserError(f"no photos to work on: set {variable} or --data_dir, or draw a sample set with "
                    f"'python prepare.py sample {SAMPLE}'")


def existing_folder(path: str | Path, source: str) -> Path:
    """`path` as a Path; a UserError that names `source` if it is not a folder."""
    path = Path(path).expanduser()
    if path.is_dir():
        return path
    what = "is a file, not a folder" if path.exists() else "does not exist"
    raise UserError(f"{source}: {path} {what}; give the folder that holds the photos")


def folder(flag: str | None, *variables: str, default: str) -> Path:
    """The first of the flag, the environment variables and the default, as a Path."""
    return Path(flag or next(filter(None, map(os.environ.get, variables)), default)).expanduser()


def is_drawn(path: Path) -> bool:
    """Whether `path` lies in a sample set drawn by prepare.py (the mark is in the set's root)."""
    return any((parent / DRAWN_MARK).is_file() for parent in [path, *list(path.resolve().parents)[:2]])


def cores() -> int:
    """Cores this process may use (job schedulers and containers give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def safe_name(name: str) -> str:
    """`name` if it can be the name of one folder or file, else a UserError: nothing leaves the model folder by its name."""
    parts = name.split("/")
    too_long = any(len(os.fsencode(part)) > 200 for part in parts)  # 255 bytes, less what temporary files add
    if too_long or any(part in ("", ".", "..") or part.startswith("-") for part in parts) or "\\" in name or not name.isprintable():
        raise UserError(f"--name: {name[:80]!r} is not a name for a run; use letters, digits, '.', '_' and '-'")
    return name


@contextlib.contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path`; on leaving without an error it takes the final name, else it is removed.

    The temporary file is flushed to disk before the rename, so a file under its final name is whole. What the disk refuses is a UserError.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part" + path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(temporary)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path`, atomically, readable by people."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """The dictionary in `path`; a UserError if it is missing, broken or something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the settings expected")
    return content
