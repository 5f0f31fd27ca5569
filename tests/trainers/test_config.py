"""Configs: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from trainers.config import (
    FIELDS,
    PRESET_NAMES,
    PRESETS,
    TrainConfig,
    config_from,
    load_config,
    preset_config,
    validate,
)
from trainers.settings import OPTIMIZER_NAMES, SCHEDULE_NAMES, WEIGHTING_NAMES

NEEDED: dict[str, Any] = {
    "instance_images": "pictures",
    "trigger": "zuv",
    "instance_prompt": "a zuv robot",
    "output": "run",
}


def test_names_in_settings_are_the_tables_keys() -> None:
    from trainers.objective import WEIGHTINGS
    from trainers.optimizers import OPTIMIZERS, SCHEDULES

    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES
    assert tuple(SCHEDULES) == SCHEDULE_NAMES
    assert tuple(WEIGHTINGS) == WEIGHTING_NAMES


def test_field_names_are_unique_over_the_sections() -> None:
    sections = [field.annotation for field in TrainConfig.model_fields.values()]
    count = len([name for one in sections for name in one.model_fields])  # type: ignore[union-attr]
    assert len(FIELDS) == count


def test_every_field_says_what_a_form_needs() -> None:
    for section in TrainConfig.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            extra = field.json_schema_extra
            assert field.title and field.description, name
            assert isinstance(extra, dict) and extra["tier"] in ("simple", "advanced"), name
            assert "unit" in extra, name


@pytest.mark.parametrize(("preset", "kind"), list(PRESETS))
def test_presets_make_configs(preset: str, kind: str) -> None:
    config = preset_config(preset, kind, **NEEDED)
    assert config.data.kind == kind
    for name, value in PRESETS[preset, kind].items():
        assert getattr(getattr(config, FIELDS[name]), name) == value


def test_presets_cover_both_kinds_and_grow() -> None:
    assert PRESET_NAMES == ("sketch", "standard", "thorough")
    for kind in ("subject", "style"):
        steps = [preset_config(preset, kind, **NEEDED).run.steps for preset in PRESET_NAMES]
        assert steps == sorted(set(steps))


def test_fields_go_before_the_preset() -> None:
    assert preset_config("sketch", "subject", **NEEDED, steps=7).run.steps == 7


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trigger": ""}, ("data.trigger", "got nothing")),
        ({"trigger": "  "}, ("data.trigger", "got nothing")),
        ({"instance_prompt": ""}, ("data.instance_prompt", "got nothing")),
        ({"instance_prompt": "a robot"}, ("data.instance_prompt", "'a robot'", "'zuv'")),
        ({"rank": 0}, ("adapter.rank", "got 0", "greater than or equal to 1")),
        ({"rank": 2.5}, ("adapter.rank", "got 2.5")),
        ({"learning_rate": float("nan")}, ("optimizer.learning_rate", "nan")),
        ({"prior_weight": -1}, ("data.prior_weight", "got -1")),
        ({"steps": "many"}, ("run.steps", "got 'many'")),
        ({"captions": "none"}, ("data.captions", "'prompt'", "'sidecar'")),
        ({"weighting": "min_sn"}, ("objective.weighting", "min_snr")),
        ({"unet_targets": "attn"}, ("adapter.unet_targets", "attention")),
        ({"text_targets": "mlp"}, ("adapter.text_targets", "attention+mlp")),
        ({"method": "lorra"}, ("adapter.method", "lora")),
        ({"ranks": 4}, ("unknown setting 'ranks'", "'rank'")),
    ],
)
def test_refusals_are_one_line_that_names_the_field(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config("sketch", "subject", **{**NEEDED, **fields})
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_preset_and_kind_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'skech'; did you mean 'sketch'"):
        preset_config("skech", "subject", **NEEDED)
    with pytest.raises(ConfigError, match=r"data\.kind: got 'stile'.*style"):
        preset_config("sketch", "stile", **NEEDED)


def test_missing_fields_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'data.instance_images' is missing.*1 more"):
        preset_config("sketch", "subject", trigger="zuv", instance_prompt="zuv")


def test_a_misspelt_field_is_named_before_the_missing_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'data.triger'; did you mean 'trigger'"):
        validate({"data": {"triger": "zuv"}})


def test_configs_are_immutable_and_survive_json() -> None:
    config = preset_config("standard", "style", **NEEDED, preview_prompts=("a fox", "a car"))
    with pytest.raises(ValueError):
        config.run.steps = 3
    assert TrainConfig.model_validate_json(config.as_json()) == config


def test_public_form_names_nothing_of_the_machine() -> None:
    config = preset_config(
        "sketch", "subject", **{**NEEDED, "instance_images": "/home/ann/pictures", "output": "/home/ann/run",
                                "cache": "/home/ann/cache", "base": "/home/ann/models/mine"}
    )  # fmt: skip
    assert "/ann" not in str(config.public())
    assert config.public()["run"]["base"] == "mine"


TOML = """
preset = "sketch"
[data]
instance_images = "pictures"
kind = "style"
trigger = "zuv"
instance_prompt = "a robot in zuv style"
[run]
output = "out/run"
steps = 33
"""


def test_toml_is_read_with_its_preset_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TOML)
    config = load_config(tmp_path / "run.toml")
    assert config.data.instance_images == tmp_path / "pictures"
    assert config.run.output == tmp_path / "out/run"
    assert config.run.steps == 33
    assert config.data.num_class_images == PRESETS["sketch", "style"]["num_class_images"]
    assert config.run.base == "pocket"


def test_a_base_folder_beside_the_toml_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    values = {
        "data": {**{k: v for k, v in NEEDED.items() if k != "output"}},
        "run": {"output": "o", "base": "mine"},
    }
    assert config_from(values, tmp_path).run.base == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset = 3\n", "unknown preset 3"),
        ("preset = 'big'\n", "unknown preset 'big'"),
        ("[data\n", "isn't TOML"),
        ("data = 3\n", "data"),
        ("[dta]\n", "unknown setting 'dta'; did you mean 'data'"),
        (TOML + "stepz = 3\n", "unknown setting 'run.stepz'; did you mean 'steps'"),
    ],
)
def test_bad_toml_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.toml")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read"):
        load_config(tmp_path / "none.toml")


def test_the_example_toml_of_a_config_reads_back(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(steps=9)
    assert validate(config.model_dump(mode="json")) == config


def test_reading_a_config_imports_no_torch() -> None:
    code = "import sys, trainers.config, trainers.events, trainers.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
