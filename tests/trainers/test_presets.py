"""Presets: what they set, what they refuse, and that their memory adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.families import FAMILIES
from pipelines.placement import GIB
from trainers.config import FIELDS, config_from, preset_config
from trainers.presets import (
    COSTS,
    MEMORY,
    MEMORY_SIZES,
    PRESETS,
    SIZES,
    Preset,
    card_bytes,
    preset_fields,
    training_bytes,
    value_of,
)

NEEDED: dict[str, Any] = {
    "instance_images": "pictures", "trigger": "zuv", "instance_prompt": "a zuv robot", "output": "run",
}  # fmt: skip


def test_every_row_sets_known_fields_and_makes_a_config() -> None:
    assert set(COSTS) == set(FAMILIES)
    assert set(MEMORY) == {(size, family) for size in (6, 8, 12, 16, 24) for family in FAMILIES}
    for preset, kind in PRESETS:
        for memory, family in MEMORY:
            chosen = Preset(name=preset, memory=memory, family=family)
            assert set(preset_fields(chosen, kind)) <= set(FIELDS)
            made = preset_config(chosen, kind, **NEEDED)
            # The learning rates were tuned with steps of four pictures.
            assert made.run.batch_size * made.run.accumulate == 4


@pytest.mark.parametrize(("memory", "family"), MEMORY)
def test_a_memory_row_fits_and_a_larger_batch_would_not(memory: int, family: str) -> None:
    """Four pictures at once only where nothing is recomputed; one only where two leave hardly any room."""
    whole, doubled, batches = [], [], set()
    for preset, kind in PRESETS:
        fields = preset_fields(Preset(name=preset, memory=memory, family=family), kind)
        assert fields["gradient_checkpointing"] == "auto"
        assert training_bytes(family, fields) <= card_bytes(memory)
        batches.add(fields["batch_size"])

        def needed(batch: int, mode: str, fields: dict[str, Any] = fields) -> int:
            prior = {"prior_batch_size": max(1, batch // 2)} if "prior_batch_size" in fields else {}
            asked = {**fields, **prior, "batch_size": batch, "gradient_checkpointing": mode}
            return training_bytes(family, asked)

        whole.append(needed(4, "none"))
        doubled.append(needed(2, "auto"))
    (batch,) = batches
    assert (batch == 4) == (max(whole) <= card_bytes(memory))
    assert (batch == 1) == (max(doubled) > 0.95 * card_bytes(memory))


def test_the_estimate_is_the_sum_of_its_parts() -> None:
    """SD 1.x, one picture, nothing but the UNet's attention at rank 1: by hand."""
    alone = {
        "batch_size": 1, "prior_weight": 0, "text_targets": "none", "rank": 1, "precision": "bf16",
        "unet_targets": "attention", "gradient_checkpointing": "none",
    }  # fmt: skip
    weights, adapter, activations = 2 * 859_520_964, 16 * 199_296, (0.757 + 0.024 + 0.35) * GIB
    assert training_bytes("sd15", alone) == int(weights + adapter + activations)
    few = training_bytes("sd15", {**alone, "quantise": "int8"})
    assert training_bytes("sd15", alone) - few == pytest.approx(242_196_480 * (16 - 8.1) / 8, rel=0.02)
    with_prior = training_bytes("sd15", {**alone, "prior_weight": 1.0, "prior_batch_size": 2})
    assert with_prior - training_bytes("sd15", alone) == pytest.approx(2 * (0.757 + 0.024) * GIB, rel=1e-6)
    assert training_bytes("sd15", {**alone, "precision": "fp32"}) > 2 * training_bytes("sd15", alone) - GIB


def test_the_costs_of_unets_are_those_of_the_published_shapes() -> None:
    """Adapters of rank 1 on attention, counted on tensors without memory."""
    import torch
    from diffusers import UNet2DConditionModel

    from pipelines.families import UNET_TARGETS

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768,
            attention_head_dim=8,
        )  # fmt: skip
    linear = {name: m for name, m in unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}

    def rank_one(endings: tuple[str, ...]) -> int:
        return sum(
            m.weight.shape[0] + m.weight.shape[1]
            for name, m in linear.items()
            if any(name.endswith(f".{e}") for e in endings)
        )

    cost = COSTS["sd15"]
    assert sum(p.numel() for p in unet.parameters()) == cost.unet
    assert rank_one(UNET_TARGETS["attention"]) == cost.attention
    assert rank_one(UNET_TARGETS["attention+ff"]) == cost.attention + cost.feed_forward
    held = sum(m.weight.numel() for n, m in linear.items() if ".attentions." in n and m.weight.dim() == 2)
    assert held == cost.quantisable


def test_a_table_of_the_file_chooses_and_its_other_tables_go_first(tmp_path: Path) -> None:
    said = {
        "preset": {"name": "thorough", "size": "conservative", "memory": 8, "family": "sdxl"},
        "data": {"instance_images": "p", "trigger": "zuv", "instance_prompt": "zuv"},
        "run": {"output": "run", "steps": 7},
    }
    config = config_from(said, tmp_path)
    assert (config.run.steps, config.adapter.rank, config.adapter.text_targets) == (7, 4, "none")
    assert (config.run.batch_size, config.run.accumulate, config.run.gradient_checkpointing) == (1, 4, "auto")


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("scetch", "unknown preset 'scetch'; did you mean 'sketch'?"),
        ({"nam": "sketch"}, "unknown setting 'preset.nam'; did you mean 'name'?"),
        ({"size": "agressive"}, "did you mean 'aggressive'?"),
        ({"memory": 10, "family": "sd15"}, "did you mean 8?"),
        ({"memory": 8}, "preset.memory needs preset.family"),
        ({"family": "sdxl"}, "preset.family has no effect without preset.memory"),
        ({"memory": 8, "family": "sdlx"}, "did you mean 'sdxl'"),
    ],
)
def test_unknown_ones_are_refused_in_one_line(preset: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        config_from({"preset": preset, "data": {}, "run": {}}, tmp_path)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_size_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.presets.card_bytes", lambda memory: int(4.5 * GIB))
    fields = {size: Preset(size=size, memory=6, family="sdxl") for size in SIZES}
    assert preset_fields(fields["conservative"], "subject")["rank"] == 4
    with pytest.raises(ConfigError, match=r"has 4\.5; choose a smaller size or a larger memory"):
        preset_fields(fields["aggressive"], "subject")


def test_sizes_grow_and_leave_alpha_at_the_rank() -> None:
    ranks = [value_of(SIZES[size], "rank") for size in ("conservative", "usual", "aggressive")]
    assert ranks == sorted(set(ranks))
    assert all(value_of(fields, "alpha") == value_of(fields, "rank") for fields in SIZES.values())
    assert sorted(MEMORY_SIZES) == list(MEMORY_SIZES)
