from pathlib import Path

import pytest

from sanderling.edge_runtime.power import read_battery


def supply(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_text(content + "\n")


@pytest.mark.parametrize(("status", "charging"), [("Charging", True), ("Full", True), ("Discharging", False)])
def test_the_battery_beside_the_mains(tmp_path, status, charging):
    supply(tmp_path / "AC", type="Mains", online="1")
    supply(tmp_path / "BAT0", type="Battery", capacity="37", status=status)
    assert read_battery(tmp_path) == (0.37, charging)


def test_a_board_without_a_battery(tmp_path):
    assert read_battery(tmp_path) == (None, False)
    supply(tmp_path / "BAT0", type="Battery", capacity="unknown")
    assert read_battery(tmp_path) == (None, False)
