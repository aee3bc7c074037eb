import json
from pathlib import Path

import pytest

from sanderling import config_file
from sanderling.config import FederationConfig
from sanderling.config_file import ConfigError


def problems(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "f.toml", overrides)
    return caught.value.problems


def test_rendered_defaults_read_back_as_the_defaults() -> None:
    assert config_file.parse(config_file.render()) == FederationConfig()


def test_rendered_settings_read_back_unchanged() -> None:
    config = config_file.parse(
        '[federation]\nname = "a-b"\ndevices = ["x", "y"]\n[update]\ndensity = 0.125\n'
    )
    assert config_file.parse(config_file.render(config)) == config


def test_every_setting_is_described() -> None:
    for name, section in config_file.json_schema()["$defs"].items():
        if name != "FederationConfig":
            for key, value in section["properties"].items():
                assert value.get("description"), f"{name}.{key} has no description"


def test_schema_is_json() -> None:
    assert (
        json.loads(json.dumps(config_file.json_schema()))["$defs"]["Round"]["additionalProperties"] is False
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[round]\ncuont = 3\n", "line 2: unknown key round.cuont; did you mean count?"),
        ("\n[ruond]\n", "line 2: unknown section [ruond]; did you mean round?"),
        ("[round]\ncount = -1\n", "line 2: round.count = -1: expected `int` >= 1"),
        ('[update]\ndensity = "a"\n', 'line 2: update.density = "a": expected `float`, got `str`'),
        ("[update]\ndensity = nan\n", "line 2: update.density = nan: expected a finite number"),
        (
            "[aggregation]\nlearning_rate = inf\n",
            "line 2: aggregation.learning_rate = inf: expected a finite number",
        ),
        (
            '[round]\nmode = "x"\n',
            "line 2: round.mode = \"x\": invalid enum value 'x'; expected one of deadline, lockstep",
        ),
        ("round = 3\n", "line 1: expected a section [round], came round = 3"),
        ("[round]\ncount = \n", "not TOML: Invalid value (at line 2, column 9)"),
    ],
)
def test_a_problem_names_its_line_and_what_was_expected(text: str, said: str) -> None:
    assert problems(text) == (said,)


def test_all_problems_are_told_at_once() -> None:
    assert len(problems("[round]\ncount = 0\nquorum = 0\n[link]\nport = 70000\n")) == 3


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["round.mode=lockstep"], "name them in federation.devices"),
        (["federation.devices=['a','a','b']"], "expected each device once"),
        (["federation.devices=['a','b']", "round.quorum=3"], "round.quorum = 3 can never be met"),
        (["federation.devices=['a','b']", "selection.minimum=3"], "selection.minimum = 3 can never be met"),
        (["federation.devices=['a','b']", "selection.cohort=3"], "more than the 2 devices"),
        (["selection.cohort=1", "round.quorum=2"], "round.quorum = 2 can never be met"),
        (
            ["publish.adaptive=true", "round.mode=lockstep", "federation.devices=['a','b']"],
            "publish.adaptive with round.mode = lockstep",
        ),
        (["publish.bytes_per_round=4095"], "publish.bytes_per_round = 4095: expected 0 or at least 4096"),
        (["publish.bytes_per_day=200000"], "use link.keepalive_s = 467 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], part: str) -> None:
    (problem,) = problems("", *overrides)
    assert part in problem


def test_the_keepalive_that_a_refusal_names_is_one_that_fits() -> None:
    config = config_file.parse("", overrides=["publish.bytes_per_day=200000", "link.keepalive_s=467"])
    assert config.publish.bytes_per_day == 200_000


def test_overrides_are_laid_over_the_file() -> None:
    config = config_file.parse(
        "[link]\nport = 1\n", overrides=["link.port=2", "link.host=pi.local", "round.count=3"]
    )
    assert (config.link.port, config.link.host, config.round.count) == (2, "pi.local", 3)


@pytest.mark.parametrize("override", ["x=1", "round.count", "=3", "round.=3"])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    assert "expected section.key=value" in problems("", override)[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write one with `sanderling init"):
        config_file.load(tmp_path / "none.toml")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        config_file.load(tmp_path / "bin.toml")
