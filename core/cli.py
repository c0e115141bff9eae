"""What every command shares: parser, help, errors in one line. Standard library only."""

import argparse
import contextlib
import errno
import functools
import os
import re
import sys
import textwrap
import time
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import groupby, takewhile
from pathlib import Path

from core.errors import UserError
from core.folders import ROOT, with_home
from core.shared_memory import WAYS_OUT, lacks_shared_memory

ADDS_UP = (argparse._AppendAction, argparse._ExtendAction)
# Refused by a disk, its quota or its permissions: reported in the words of the system.
OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE),
}
CLOUD = re.compile(r"(s3|s3a|gs|hdfs|abfss?|wasbs?)://", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong command in one line, as the rest of the toolkit does.

    Wrong are, too, an empty value, a flag of any number of values that is given twice, an address
    in cloud storage where a path is meant, and a Python without `packages`. Of other flags the last
    counts, so that scripts can be called with other values, and a warning says so.
    """

    def __init__(self, *args, packages=("numpy", "pandas"), **more):
        super().__init__(*args, **more)
        self.packages = packages

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}{self.near(message)}; see --help\n")

    def near(self, message: str) -> str:
        """The flag that a misspelt one may mean."""
        unknown = re.search(r"unrecognized arguments:.*?(--[\w-]+)", message)
        word = unknown[1].replace("-", "_").replace("__", "--", 1) if unknown else ""
        found = get_close_matches(word, self._option_string_actions, 1) if unknown else []
        return f" (did you mean {found[0]}?)" if found else ""

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        for package in self.packages:
            if find_spec(package) is None:
                self.exit(2, f"{self.prog}: {lacking(package)}\n")
        return parsed

    def parse_known_args(self, args=None, namespace=None):
        is_command = args is None or " " in self.prog  # of the whole program or of a subcommand
        words = [expanded(word) for word in (sys.argv[1:] if args is None else args)]
        self.check_words(words, is_command)
        return super().parse_known_args(words, namespace)

    def check_words(self, words: list[str], is_command: bool) -> None:
        given = {}
        words = list(takewhile("--".__ne__, words))
        for number, word in enumerate(words):
            flag, equals, value = word.partition("=")
            if CLOUD.match(word) or CLOUD.match(value):
                self.error(
                    f"{word}: not a path on this machine; copy it here first "
                    "(SageMaker copies its channels and SM_MODEL_DIR itself)"
                )
            action = self._option_string_actions.get(flag)
            if not word or (action and equals and not value):
                flag = flag or "".join(words[number - 1 : number])
                self.error(f"{flag}: its value is empty (a variable that is not set?)")
            if action is None or action.nargs == 0 or isinstance(action, ADDS_UP):
                continue
            count = action.nargs if isinstance(action.nargs, int) else 1
            value = value if equals else " ".join(words[number + 1 : number + 1 + count])
            before = given.setdefault(flag, value)
            given[flag] = value
            if before == value or not is_command:
                continue
            if action.nargs in ("*", "+"):
                self.error(f"{flag} is given twice, and only one of the two could count")
            warn_once(f"warning: {flag} is given twice: {value} counts, {before} does not")


def expanded(word: str) -> str:
    """`word` without file://, and ~ as the home folder, which a shell leaves in --flag=~/x."""
    start, flag, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    value = value.removeprefix("file://")
    return start + flag + (str(with_home(value)) if value.startswith("~") else value)


@functools.cache
def warn_once(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default; keeps indented lines (examples) as they are and wraps paragraphs."""

    def _get_help_string(self, action):
        nothing = action.default is None or action.default is False or action.default == []
        if nothing or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _fill_text(self, text, width, _):
        blocks = groupby(
            text.splitlines(), key=lambda line: "line" if line.startswith(" ") else bool(line)
        )
        return "\n".join(
            textwrap.fill(" ".join(lines), width) if of_words is True else "\n".join(lines)
            for of_words, lines in blocks
        )


def add_commands(parser: ArgumentParser, table: dict) -> dict[str, ArgumentParser]:
    """Add the commands of `table` to `parser`, which puts the one given into `command`.

    table: name -> (summary in the list of commands, description, epilog, flags), each flag its name
    and the arguments of add_argument. Returns the parser of each command.
    """
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    parsers = {}
    for name, (summary, description, epilog, flags) in table.items():
        texts = {"help": summary, "description": description, "epilog": epilog}
        parsers[name] = commands.add_parser(name, formatter_class=HelpFormatter, **texts)
        for flag, arguments in flags.items():
            parsers[name].add_argument(flag, **arguments)
    return parsers


def add_labels(parser, text: str, required: bool = False) -> None:
    """Add --labels FILE, the ground truth; its old name, --answers, still works."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--labels", metavar="FILE", type=Path, help=text)
    group.add_argument("--answers", dest="labels", type=Path, help=argparse.SUPPRESS)


def run(main, args) -> None:
    """Call `main(args)` and exit: 0, 2 with one line for a UserError, 130 for Ctrl-C."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own does not exist in another Python
    for stream in (sys.stdout, sys.stderr):  # names that the terminal cannot show become escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(args)
    except (UserError, ModuleNotFoundError, RuntimeError, OSError) as error:
        status, line = 2, told(error)
        if isinstance(error, BrokenPipeError):  # the reader of our output (head, less) has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        elif line is None:
            raise
        else:
            if os.environ.get("RANK", "0") != "0":
                time.sleep(2)  # rank 0 mostly says the same, and torchrun then ends this one
            print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        warn_once(f"\n{Path(sys.argv[0]).name}: stopped by Ctrl-C")
        status = 130
    end_ranks(wait=not status)
    sys.exit(status or 0)


def told(error: Exception) -> str | None:
    """What to say of an error that the user or the machine made; None for one of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return lacking(error.name)
    if isinstance(error, RuntimeError) and lacks_shared_memory(error):
        return f"/dev/shm is full; {WAYS_OUT}"
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return f"{error.filename or 'this machine'}: {error.strerror}"
    return None


def end_ranks(wait: bool) -> None:
    """Leave the other processes of a distributed run, after they have ended too if `wait`.

    Threads of PyTorch's process group that run on can abort a process that exits.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        if wait:
            with contextlib.suppress(RuntimeError):  # of another that has failed and says why
                distributed.barrier()
        distributed.destroy_process_group()


def lacking(package: str) -> str:
    """What to tell somebody whose Python has no `package`."""
    venv = ROOT / ".venv" / "bin" / "python"
    way = "'sh train.sh' installs all that is needed"
    if venv.is_file():
        way = f"use the one that set-up made, {venv}"
    return f"this Python ({sys.executable}) has no {package}; {way}"
