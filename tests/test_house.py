"""The layout of the code: where imports point, how long functions, files and lines are."""

import ast

import pytest

from core.folders import ROOT

FOLDERS = ("core", "prediction", "training", "preparation", "reporting")
FILES = sorted(
    [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
)
LEVELS = {
    "core": 1,
    **dict.fromkeys(("dataset", "model", "loss"), 2),
    "prediction": 3,
    **dict.fromkeys(("training", "preparation", "reporting"), 4),
}
SCRIPT = 5


def room(file) -> str:
    """The folder that a file is in, or the name of a module at the top."""
    path = file.relative_to(ROOT)
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imported_rooms(file) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names} & {room(other) for other in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_from_scripts_down_to_core(file):
    own = LEVELS.get(room(file), SCRIPT)
    for name in imported_rooms(file) - {room(file)}:
        assert LEVELS.get(name, SCRIPT) < own, f"{file.name} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_and_files_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, "a file of more than 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 80, f"{node.name} has {lines} lines, more than 80"


def test_no_line_is_wider_than_100_columns():
    """Ruff checks Python. Tables and pictures in Markdown cannot wrap."""
    patterns = ("*.sh", "*.md", "*.txt", "docs/*.md", "*/templates/*")
    files = [file for pattern in patterns for file in ROOT.glob(pattern)]
    wide = [
        f"{file.name}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100 and not line.startswith(("|", "!["))
    ]
    assert not wide, wide
