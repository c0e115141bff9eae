"""What every command shares: parser, help, errors in one line. Standard library only."""

import argparse
import os
import sys
import textwrap
from itertools import groupby
from pathlib import Path

from core.errors import UserError
from core.folders import ROOT
from core.shared_memory import WAYS_OUT, lacks_shared_memory


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong command in one line, as the rest of the toolkit does."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see --help\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default; keeps indented lines (examples) as they are and wraps paragraphs."""

    def _get_help_string(self, action):
        nothing = action.default is None or action.default is False or action.default == []
        if nothing or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _fill_text(self, text, width, indent):
        blocks = groupby(
            text.splitlines(), key=lambda line: "line" if line.startswith(" ") else bool(line)
        )
        return "\n".join(
            textwrap.fill(" ".join(lines), width) if of_words is True else "\n".join(lines)
            for of_words, lines in blocks
        )


def add_labels(parser, text: str, required: bool = False) -> None:
    """Add --labels FILE, the ground truth; its old name, --answers, still works."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--labels", metavar="FILE", type=Path, help=text)
    group.add_argument("--answers", dest="labels", type=Path, help=argparse.SUPPRESS)


def run(main, args) -> None:
    """Call `main(args)` and exit: 0, 2 with one line for a UserError, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):  # names that the terminal cannot show become escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(args)
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except RuntimeError as error:
        if not lacks_shared_memory(error):
            raise
        print(f"{Path(sys.argv[0]).name}: /dev/shm is full; {WAYS_OUT}", file=sys.stderr)
        status = 2
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        print(f"\n{Path(sys.argv[0]).name}: stopped by Ctrl-C", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status or 0)


def _tell_what_is_missing(kind, error, trace) -> None:
    """sys.excepthook: a package that this Python lacks is one line instead of a traceback."""
    if kind is ModuleNotFoundError:
        venv = ROOT / ".venv" / "bin" / "python"
        way = (
            f"use the one that set-up made, {venv}"
            if venv.is_file()
            else "'sh train.sh' installs all that is needed"
        )
        print(
            f"{Path(sys.argv[0]).name}: this Python ({sys.executable}) has no {error.name}; {way}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell_what_is_missing
