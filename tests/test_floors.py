"""The plan of the house: imports point down, guests stay in their rooms, no file outgrows a screenful or eight."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import lightning_plasticity

PACKAGE = Path(lightning_plasticity.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "functional": {"errors"},
    "units": {"functional", "errors"},
    "metrics": {"functional", "errors"},
    "streams": {"errors"},
    "replacement": {"units", "functional", "errors"},
    "optim": {"units", "functional", "errors"},
    "methods": {"replacement", "units", "functional", "errors"},
    "callbacks": {"methods", "replacement", "optim", "metrics", "streams", "units", "functional", "errors"},
    "testing": {"methods", "replacement", "optim", "metrics", "units", "functional", "errors", "callbacks"},
    "plots": {"methods", "replacement", "optim", "metrics", "units", "functional", "errors", "callbacks", "streams"},
    "avalanche": {"methods", "replacement", "optim", "metrics", "streams", "units", "functional", "errors"},
    "experiments": {"callbacks", "methods", "metrics", "streams", "units", "functional", "errors"},
    "__init__": {"callbacks", "methods", "replacement", "optim", "metrics", "streams", "units", "functional", "errors"},
}
GUESTS = {  # packages of others, and the rooms they may be seen in; in brackets: only inside of functions
    "lightning": {"callbacks", "testing", "streams", "experiments"},
    "torchmetrics": {"metrics", "callbacks", "avalanche"},
    "avalanche": {"avalanche", "(streams)"},
    "matplotlib": {"(plots)", "(metrics)", "(experiments)"},
    "torchvision": {"(streams)"},
    "sklearn": {"(streams)"},
    "PIL": {"(streams)"},
    "numpy": {"(streams)"},
    "backpack": {"(optim)"},
    "tensorboard": {"(plots)"},
}
FREE = {"torch", "typing_extensions", "lightning_plasticity", *sys.stdlib_module_names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[tuple[str, bool]]:
    """Names of imported modules, and whether the import stands inside of a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    typing = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = []
    for node in (node for node in ast.walk(tree) if id(node) not in typing):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found.append((node.module or "", id(node) in inside))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_guests_stay_in_their_rooms(path):
    floor = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name, inside in imported(path):
        root, _, rest = name.partition(".")
        if root == "lightning_plasticity" and rest:
            assert rest.split(".")[0] in MAY_IMPORT[floor] | {floor}, f"{floor} may not import {name}"
        elif root not in FREE:
            rooms = GUESTS.get(root, set())
            assert floor in rooms or (inside and f"({floor})" in rooms), f"{floor} may not import {name} here"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_no_other_room_leads_to_the_optional_one():
    assert not [floor for floor, rooms in MAY_IMPORT.items() if "avalanche" in rooms]
