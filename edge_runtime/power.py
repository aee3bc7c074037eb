"""How full the battery is, as Linux tells (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from pathlib import Path


def read_battery(power: Path = Path("/sys/class/power_supply")) -> tuple[float | None, bool]:
    """The first battery's share of charge and whether it charges; None where there is no battery."""
    for supply in sorted(power.glob("*")):
        capacity = _read(supply / "capacity")
        if _read(supply / "type") == "Battery" and capacity.isdigit():
            return min(100, int(capacity)) / 100, _read(supply / "status") in ("Charging", "Full")
    return None, False


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
