"""The parsers under the fuzzers of tests/fuzz/firmware.py, for a moment; `.ci/long` runs ten million."""

from pathlib import Path

import pytest

from tests.fuzz import firmware

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(firmware.find_clang() is None, reason="no clang: apt-get install clang"),
]


@pytest.mark.parametrize("target", firmware.SOURCES)
def test_nothing_breaks_a_law_or_stops_at_a_sanitizer(target: str, tmp_path: Path) -> None:
    figures = firmware.fuzz(target, 5000, 3, tmp_path)
    assert figures.finding == ""
    assert figures.executions >= 5000 and figures.coverage_edges > 100


def test_a_broken_law_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law = firmware.HERE / "firmware_plan.c"
    broken = tmp_path / "here"
    broken.mkdir()
    (broken / "firmware_input.h").write_text((firmware.HERE / "firmware_input.h").read_text())
    text = law.read_text().replace("LAW(status <= SL_OK);", "LAW(status < SL_OK);")
    (broken / "firmware_plan.c").write_text(text)
    monkeypatch.setattr(firmware, "HERE", broken)
    assert "broken: status < SL_OK" in firmware.fuzz("plan", 5000, 1, tmp_path).finding
