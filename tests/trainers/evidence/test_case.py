"""What an adapter says of itself, and what a person says against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.adapter import Adapter
from pipelines.errors import ConfigError
from trainers.evidence.case import Asked, Case, case_of, case_of_run, training

TAUGHT: dict[str, Any] = {
    "data": {"trigger": "zuv", "instance_prompt": "a zuv disc", "class_prompt": "a disc", "kind": "subject",
             "held_out": 2, "captioner": "some-model", "background": "black"},
    "run": {"seed": 7, "steps": 300, "preview_guidance": 4.5, "base": "elsewhere"},
    "optimizer": {"learning_rate": 0.1},
}  # fmt: skip


def adapter(taught: Any = None, **metadata: str) -> Adapter:
    said = {} if taught is None else {"training": taught if isinstance(taught, str) else json.dumps(taught)}
    return Adapter(name="one", metadata=said | metadata)


def config_of(case: Case) -> Any:
    assert case.config is not None
    return case.config


def test_it_is_judged_by_its_own_words(tmp_path: Path) -> None:
    case = case_of(adapter(TAUGHT), Asked(pictures=tmp_path, samples=3), tmp_path / "out", "some-base")
    config = config_of(case)
    assert (config.data.instance_prompt, config.data.class_prompt) == ("a zuv disc", "a disc")
    assert (config.data.held_out, config.data.background, config.data.captioner) == (2, "black", "")
    assert (config.run.seed, config.run.preview_guidance, config.run.base) == (7, 4.5, "some-base")
    assert (config.data.instance_images, config.run.output) == (tmp_path, tmp_path / "out")
    assert (case.pictures, config.evidence.samples, config.run.evaluate_every) == (True, 3, 1)
    assert case.settings["optimizer"] == {"learning_rate": 0.1}
    assert case.step == 300


def test_a_person_s_words_go_first(tmp_path: Path) -> None:
    asked = Asked(pictures=tmp_path, prompt="zuv here", class_prompt="this", held_out=0, kind="style")
    data = config_of(case_of(adapter(TAUGHT), asked, tmp_path)).data
    assert (data.instance_prompt, data.class_prompt, data.held_out, data.kind) == (
        "zuv here",
        "this",
        0,
        "style",
    )
    other = config_of(case_of(adapter(TAUGHT), Asked(trigger="wob"), tmp_path)).data
    assert (other.trigger, other.instance_prompt, other.background) == ("wob", "a photo of wob", "white")
    with pytest.raises(ConfigError, match="expected the trigger 'zuv' in it"):
        case_of(adapter(TAUGHT), Asked(prompt="nothing"), tmp_path)


def test_of_adapters_of_other_tools_the_trigger_is_enough(tmp_path: Path) -> None:
    foreign = Adapter(name="far", triggers=("wob", "other"), metadata={"ss_steps": "1200"})
    case = case_of(foreign, Asked(kind="style"), tmp_path)
    assert config_of(case).data.instance_prompt == "a picture in wob style"
    assert (case.step, case.pictures, case.settings) == (1200, False, {})


def test_without_a_word_it_is_looked_at_alone(tmp_path: Path) -> None:
    case = case_of(Adapter(name="mute"), Asked(), tmp_path)
    assert (case.config, case.step) == (None, None)
    for asked in (Asked(pictures=tmp_path), Asked(prompt="a cat")):
        with pytest.raises(ConfigError, match="give the trigger"):
            case_of(Adapter(name="mute"), asked, tmp_path)


@pytest.mark.parametrize("damaged", ["{", "[]", "3", '{"data": 4}', "null", "[" * 100_000])
def test_damaged_settings_count_as_none(damaged: str) -> None:
    assert training(adapter(damaged)) == {}
    assert Case(adapter=adapter(damaged), out=Path()).step is None


def test_settings_of_another_version_leave_the_words(tmp_path: Path) -> None:
    changed = {**TAUGHT, "data": {**TAUGHT["data"], "kind": "subject", "variants": "many", "unheard_of": 1}}
    data = config_of(case_of(adapter(changed), Asked(), tmp_path)).data
    assert (data.instance_prompt, data.background) == ("a zuv disc", "white")
    unheard = {**TAUGHT, "data": {**TAUGHT["data"], "unheard_of": 1}}
    assert config_of(case_of(adapter(unheard), Asked(), tmp_path)).data.background == "black"


@pytest.mark.parametrize("steps", ["0", "-3", "9" * 30, "many", "²"])
def test_a_step_that_is_none_isn_t_taken(steps: str) -> None:
    assert Case(adapter=adapter(steps=steps), out=Path()).step is None


def test_a_folder_that_is_no_run_s(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        case_of_run(adapter(), tmp_path, Asked(), tmp_path)
