"""The rooms' import rules, read from the code itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRONT = ROOT / "src" / "sanderling"

# room -> the rooms of ours it may import besides itself
ALLOWED = {
    "models": set(),
    "broker": {"models"},
    "coordinator": {"broker", "models"},
    "edge_runtime": {"broker", "models"},
    "firmware_export": {"broker", "models"},
    "hil": {"coordinator", "edge_runtime", "firmware_export", "broker", "models"},
    "simulation": {"coordinator", "edge_runtime", "broker", "models"},
}


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("sanderling.") and "." in name}
    return rooms


@pytest.mark.parametrize("room", [room for room in ALLOWED if (ROOT / room).is_dir()])
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files, f"{room} is empty: is the folder named right?"
    for file in files:
        strangers = imported_rooms(file) - ALLOWED[room] - {room, "__version__"}
        assert not strangers, f"{file.relative_to(ROOT)} imports {sorted(strangers)}"


def test_every_room_is_mapped_into_the_namespace() -> None:
    for link in FRONT.iterdir():
        if link.is_symlink():
            assert link.resolve() == ROOT / link.name
    for room in ALLOWED:
        if list((ROOT / room).glob("*.py")):
            assert (FRONT / room).is_symlink(), f"src/sanderling/{room} must link to ../../{room}"
