"""Which pictures are drawn at once: prompts by each picture's seed, and only of one length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.base import Base
from pipelines.drawing.turns import make_turns
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, generate

FEW = GenerationConfig(prompt="a fox", num_inference_steps=3, guidance_scale=2.0)


def test_a_plain_prompt_is_what_the_encoders_say(tiny_sdxl: Base) -> None:
    """Side by side: B negative ones, then B positive ones."""
    config = FEW.model_copy(update={"num_images": 5, "batch_size": 3, "negative_prompt": "grey"})
    turns = list(make_turns(tiny_sdxl, config))
    assert [turn.seeds for turn in turns] == [(0, 1, 2), (3, 4)]
    wanted = tiny_sdxl.condition(["a fox"] * 3).after(tiny_sdxl.condition(["grey"] * 3, negative=True))
    context = turns[0].context
    assert context.hidden.shape == wanted.hidden.shape and context.pooled is not None
    assert torch.allclose(context.hidden, wanted.hidden, atol=1e-5)
    assert wanted.pooled is not None and torch.allclose(context.pooled, wanted.pooled, atol=1e-5)
    plain = next(make_turns(tiny_sdxl, FEW.model_copy(update={"guidance_scale": 1.0})))
    assert torch.equal(plain.context.hidden, tiny_sdxl.condition(["a fox"]).hidden)


def test_wildcards_are_resolved_by_each_pictures_seed(tiny_base: Base) -> None:
    """Whatever else is drawn; the settings hold what was drawn, and what was asked for."""
    config = FEW.model_copy(update={"prompt": "a {fox|owl|cat}", "num_images": 6, "negative_prompt": "{a|b}"})
    pictures = generate(tiny_base, config)
    drawn = [picture.settings["generation"]["prompt"] for picture in pictures]
    assert len(set(drawn)) > 1 and set(drawn) <= {"a fox", "a owl", "a cat"}
    for picture in pictures:
        assert picture.settings["template"] == config.prompt
        assert picture.settings["negative_template"] == "{a|b}"
        alone = generate(tiny_base, config.model_copy(update={"seed": picture.seed, "num_images": 1}))[0]
        assert alone.image.tobytes() == picture.image.tobytes()
        settings = GenerationConfig.model_validate(picture.settings["generation"])
        assert generate(tiny_base, settings)[0].image.tobytes() == picture.image.tobytes()
    assert "template" not in generate(tiny_base, FEW)[0].settings


def test_prompts_of_several_lengths_dont_share_a_batch(tiny_base: Base) -> None:
    """A short prompt in one batch with a long one would be filled up, and so drawn otherwise."""
    config = FEW.model_copy(
        update={
            "prompt": "{a|a very long prompt about an old and grey fox}",
            "num_images": 6,
            "batch_size": 6,
        }
    )
    pictures = generate(tiny_base, config)
    assert len({picture.settings["generation"]["prompt"] for picture in pictures}) == 2
    for picture in pictures:
        alone = generate(tiny_base, config.model_copy(update={"seed": picture.seed, "num_images": 1}))[0]
        assert np.abs(np.asarray(picture.image, int) - np.asarray(alone.image, int)).max() <= 1


def test_a_tag_that_nothing_mixed_in_is_an_error(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="names the adapter 'fox' by a tag"):
        generate(tiny_base, FEW.model_copy(update={"prompt": "a fox <lora:fox:0.8>"}))
