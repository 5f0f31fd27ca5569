"""The data section: what would change nothing is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ConfigError
from trainers.config import TrainConfig, preset_config, validate

NEEDED: dict[str, Any] = {
    "instance_images": "pictures", "trigger": "zuv", "instance_prompt": "a zuv robot", "output": "run",
}  # fmt: skip


def made(**fields: Any) -> TrainConfig:
    return preset_config("sketch", "subject", **{**NEEDED, **fields})


@pytest.mark.parametrize(
    ("idle", "needs"),
    [
        ({"captions_file": "a.jsonl"}, {"captions": "table"}),
        ({"keep_tags": 2}, {"shuffle_tags": True}),
        ({"unmasked_weight": 0.0}, {"masks": "alpha"}),
        ({"variants": 8}, {"augment": "crop"}),
        ({"augment_strength": 0.2}, {"augment": "colour"}),
        ({"split_seed": 3}, {"held_out_share": 0.2}),
    ],
)
def test_options_with_nothing_to_act_on_are_refused(idle: dict[str, Any], needs: dict[str, Any]) -> None:
    (name,) = idle
    with pytest.raises(ConfigError, match=rf"data\.{name}: got .*data\.{next(iter(needs))}") as caught:
        made(**idle)
    assert "\n" not in str(caught.value)
    config = made(**idle, **needs)
    assert validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(("name", "value"), [("bucket_step", 64), ("bucket_aspect", 3.0)])
def test_options_of_shapes_need_shapes(name: str, value: float) -> None:
    made(**{name: value})
    with pytest.raises(ConfigError, match=rf"data\.{name}: got .*data\.buckets"):
        made(**{name: value}, buckets=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"held_out": 2, "held_out_share": 0.2}, "held_out_share: got 0.2 beside held_out = 2"),
        ({"captioner": "org/name"}, "don't know the trigger; set data.add_trigger"),
        ({"captioner": "org/name", "add_trigger": True, "captions": "prompt"}, "all have the one prompt"),
        ({"captions": "table", "captions_file": "../a.csv"}, "captions_file: .*in the folder"),
        ({"captions": "table", "captions_file": "a.txt"}, "captions_file: .*jsonl or .csv"),
        ({"background": "reddish"}, "background: got 'reddish', expected white"),
        ({"background": "#12345"}, "background: got '#12345'"),
        ({"augment": "colors"}, "augment: got 'colors'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        made(**fields)
    assert "\n" not in str(caught.value)


def test_what_can_be_is_taken() -> None:
    config = made(captioner="org/name", add_trigger=True, background="#AbCdEf", held_out_share=0.2)
    assert config.data.background == "#AbCdEf"
