"""The layout of the code: where imports may point, and how long functions, files and lines may be."""

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
