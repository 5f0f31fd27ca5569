"""Fields ↔ components: every field of the config has one, and nothing is lost on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from pipelines.errors import ConfigError
from studio import forms, teaching
from trainers.config import PRESETS, TrainConfig, validate

SCRIPTS = Path(forms.__file__).parent / "js"
SPECS = [spec for _, _, specs in forms.sections(TrainConfig) for spec in specs]


@pytest.mark.parametrize(("preset", "kind"), PRESETS)
def test_every_field_survives_the_way_to_the_page_and_back(preset: str, kind: str) -> None:
    config = teaching.example_config(preset, kind)
    shown = forms.flat(config, SPECS)
    assert set(shown) == {
        f"{section}.{name}"
        for section in TrainConfig.model_fields
        for name in type(getattr(config, section)).model_fields
    }
    assert validate(forms.changed(config, SPECS, shown)) == config


def test_every_field_has_words_and_a_control_on_the_page() -> None:
    script = (SCRIPTS / "advanced.js").read_text(encoding="utf-8")
    controls = set(re.findall(r"^  (\w+): \(spec, common\)", script, re.M))
    controls |= set(re.findall(r"(\w+): CONTROLS\.", script))
    assert controls == {"flag", "choice", "lines", "text", "path", "number", "whole"}
    for spec in SPECS:
        shown = forms.described(spec, "a hint")
        assert json.loads(json.dumps(shown)) == shown
        assert shown["label"] and shown["help"] and shown["placeholder"] == "a hint"
        assert shown["kind"] in controls
        assert shown["id"] == forms.field_id(spec.path)


@pytest.mark.parametrize(
    ("path", "raw", "value"),
    [
        ("run.steps", 12.0, 12),
        ("optimizer.learning_rate", 1e-3, 1e-3),
        ("optimizer.text_learning_rate", "", None),
        ("optimizer.text_learning_rate", " 2e-4 ", 2e-4),
        ("data.resolution", None, None),
        ("data.resolution", "64", 64),
        ("data.flip", True, True),
        ("run.preview_prompts", "a cat\n\n a dog \n", ("a cat", "a dog")),
        ("run.precision", None, None),
        ("adapter.unet_targets", "attention", "attention"),
    ],
)
def test_what_a_component_holds_reaches_the_config(path: str, raw: Any, value: Any) -> None:
    config = teaching.example_config("sketch", "subject")
    changed = validate(forms.changed(config, SPECS, {path: raw}))
    assert forms.get_value(changed, path) == value


@pytest.mark.parametrize(
    ("path", "raw", "said"),
    [
        ("run.steps", None, "Steps is empty"),
        ("run.steps", 1.5, "whole number"),
        ("data.resolution", "wide", "expected a number"),
        ("run.steps", 0, "run.steps"),
        ("optimizer.learning_rate", 7, "learning_rate"),
        ("adapter.unet_targets", "everything", "unet_targets"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_field(path: str, raw: Any, said: str) -> None:
    config = teaching.example_config("sketch", "subject")
    with pytest.raises(ConfigError) as refused:
        validate(forms.changed(config, SPECS, {path: raw}))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


class Inner(BaseModel):
    folder: Path | None = Field(default=None, title="Folder", description="Where.")
    mode: Literal["a", "b"] = Field(default="a", description="Which.")
    amount: int = Field(
        default=3, ge=1, le=9, title="Amount", json_schema_extra={"unit": "pixels", "tier": "simple"}
    )


class Outer(BaseModel):
    inner: Inner = Field(default=Inner(), title="All of it")


def test_metadata_is_read_from_the_model() -> None:
    [(name, title, (folder, mode, amount))] = forms.sections(Outer)
    assert (name, title) == ("inner", "All of it")
    assert (folder.kind, folder.optional) == ("path", True)
    assert (mode.kind, mode.choices, mode.title) == ("choice", ("a", "b"), "Mode")
    assert (amount.minimum, amount.maximum, amount.label, amount.tier) == (1, 9, "Amount (pixels)", "simple")


def test_a_type_without_a_component_is_an_error() -> None:
    class Odd(BaseModel):
        weird: dict[str, int] = {}

    class Holder(BaseModel):
        odd: Odd = Odd()

    with pytest.raises(TypeError, match="no component"):
        forms.sections(Holder)


def test_every_field_of_several_values_is_lines() -> None:
    """A drop-down would give one of them, as a text, which the config refuses."""
    config = teaching.example_config(*next(iter(PRESETS)))
    several = [spec for spec in SPECS if isinstance(forms.get_value(config, spec.path), tuple)]
    assert "run.without" in {spec.path for spec in several}
    assert {spec.kind for spec in several} == {"lines"}
    without = next(spec for spec in several if spec.path == "run.without")
    assert forms.parse(without, "graph\nflat\n") == ("graph", "flat")


@pytest.mark.parametrize("raw", ["nan", "inf", "1e999", "-inf", "2.5"])
def test_what_is_no_whole_number_is_refused_in_a_line(raw: str) -> None:
    spec = next(spec for spec in SPECS if spec.kind == "whole")
    with pytest.raises(ConfigError, match="expected a whole number"):
        forms.parse(spec, raw)
