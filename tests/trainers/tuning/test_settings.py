"""What the config of an adapter refuses, and says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.methods import TUNINGS
from trainers.settings import AdapterConfig
from trainers.settings.adapter import INITIALISATIONS, by_block


def refusal(**fields: Any) -> str:
    """The one mistake of a config."""
    with pytest.raises(ValidationError) as told:
        AdapterConfig(**fields)
    (mistake,) = told.value.errors(include_url=False)
    text = str(mistake["msg"]).removeprefix("Value error, ")
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "ia3", "rank": 4}, "rank: means nothing for method 'ia3' (IA³); leave it out"),
        ({"method": "oft", "alpha": 4.0}, "alpha: means nothing for method 'oft'"),
        ({"method": "hra", "dropout": 0.1}, "dropout: means nothing for method 'hra'"),
        ({"method": "oft", "dropout": 0.1}, "dropout: means nothing for method 'oft'"),
        ({"module_dropout": 0.1}, "module_dropout: means nothing for method 'lora'"),
        ({"method": "ln_tuning", "text_rank": 4}, "text_rank: means nothing"),
        ({"method": "vera", "text_alpha": 4.0}, "text_alpha: means nothing"),
        ({"method": "adalora", "block_ranks": ("mid_block=4",)}, "block_ranks: means nothing"),
        ({"method": "oft", "block_alphas": ("mid_block=4",)}, "block_alphas: means nothing"),
        ({"method": "prefix", "unet_targets": "all"}, "unet_targets: means nothing for method 'prefix'"),
        ({"method": "dora", "initialisation": "pissa"}, "initialisation: DoRA has no start 'pissa'; choose "
         "'default', or method 'lora'"),
        ({"method": "hra", "rank": 5}, "rank: got 5, expected a multiple of 2 for HRA; use 4"),
        ({"method": "hra", "rank": 1}, "rank: got 1, expected a multiple of 2 for HRA; use 2"),
        ({"method": "gralora", "text_rank": 3}, "rank: got 3, expected a multiple of 2 for GraLoRA; use 2"),
        ({"method": "road", "block_ranks": ("mid_block=7",)}, "rank: got 7, expected a multiple of 2"),
        ({"method": "c3a", "unet_targets": "all"}, "'all', but C³A can't sit on convolutions"),
        ({"method": "oft", "unet_targets": "all"}, "'all', but OFT can't sit on convolutions"),
        ({"initialisation": "pissa", "unet_targets": "all"}, "initialisation 'pissa' is for linear layers"),
        ({"unet_targets": "none", "text_targets": "none"}, "or text_targets: got 'none' throughout"),
        ({"method": "prefix", "text_targets": "none"}, "text_targets: got 'none' throughout"),
        ({"text_targets": "none", "text_rank": 4}, "text_rank: means nothing with text_targets 'none'"),
        ({"text_targets": "none", "text_alpha": 4.0}, "text_alpha: means nothing with text_targets 'none'"),
        ({"block_ranks": ("mid_block",)}, "got 'mid_block', expected a block, “=” and a whole number from"),
        ({"block_ranks": ("mid_block=2.5",)}, "got 'mid_block=2.5'"),
        ({"block_ranks": ("=4",)}, "got '=4'"),
        ({"block_rates": ("mid_block=nan",)}, "got 'mid_block=nan'"),
        ({"block_alphas": ("mid_block=2", "mid_block=3")}, "got 'mid_block' twice; give each block once"),
    ],
)  # fmt: skip
def test_a_setting_without_a_meaning_is_refused(fields: dict[str, Any], told: str) -> None:
    assert told in refusal(**fields)


@pytest.mark.parametrize("method", list(TUNINGS))
def test_every_method_has_a_config_that_is_read_again(method: str) -> None:
    config = AdapterConfig(method=method)
    assert AdapterConfig.model_validate_json(config.model_dump_json()) == config


def test_every_start_is_offered() -> None:
    assert INITIALISATIONS == ("default", "pissa", "olora", "eva")


def test_blocks_are_read_as_numbers() -> None:
    assert by_block(("down_blocks.1=16", " mid_block =0.5")) == {"down_blocks.1": 16.0, "mid_block": 0.5}
