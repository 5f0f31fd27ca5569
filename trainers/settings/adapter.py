"""What is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.methods import TUNINGS
from trainers.settings.fields import Section, about, one_of

TRAINABLE = tuple(TUNINGS)
INITIALISATIONS = tuple(dict.fromkeys(name for row in TUNINGS.values() for name in row.initialisations))


def by_block(texts: tuple[str, ...]) -> dict[str, float]:
    """Read "down_blocks.1=16" and the like: numbers by block name."""
    return {name.strip(): float(number) for name, _, number in (text.rpartition("=") for text in texts)}


def _blocks(low: float, high: float, whole: bool = False) -> AfterValidator:
    """Accept texts "block=number" with numbers in a range, each block once."""
    expected = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}"

    def check(texts: tuple[str, ...]) -> tuple[str, ...]:
        seen = set()
        for text in texts:
            name, _, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = float("nan")
            if not name.strip() or not low <= value <= high or (whole and value != int(value)):
                raise ValueError(
                    f"got {text[:60]!r}, expected a block, “=” and {expected}: “mid_block={high:g}”"
                )
            if name.strip() in seen:
                raise ValueError(f"got {name.strip()!r} twice; give each block once")
            seen.add(name.strip())
        return texts

    return AfterValidator(check)


def meaningful(method: str) -> dict[str, bool]:
    """Say of each setting that not all methods read whether it means something for `method`."""
    row = TUNINGS[method]
    return {
        "rank": "rank" in row.uses,
        "alpha": "alpha" in row.uses,
        "dropout": "dropout" in row.uses,
        "module_dropout": "module_dropout" in row.uses,
        "text_rank": "rank" in row.uses and "text" in row.components,
        "text_alpha": "alpha" in row.uses and "text" in row.components,
        "block_ranks": "rank" in row.uses and row.by_block,
        "block_alphas": "alpha" in row.uses and row.by_block,
        "block_rates": bool(row.components),
        "unet_targets": "unet" in row.components,
        "text_targets": "text" in row.components,
    }


class AdapterConfig(Section):
    """What is trained."""

    method: Annotated[str, one_of(*TRAINABLE)] = Field(
        default="lora",
        title="Method",
        description="How the change of the base is written down.",
        json_schema_extra=about("advanced", choices=TRAINABLE),
    )
    rank: int = Field(
        default=8,
        ge=1,
        le=256,
        title="Rank",
        description="How much an adapter can hold; the file grows with it.",
        json_schema_extra=about("advanced"),
    )
    alpha: float = Field(
        default=8.0,
        gt=0,
        le=1024,
        title="Alpha",
        description="The change is multiplied by alpha / rank; equal to the rank is a good start.",
        json_schema_extra=about("advanced"),
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Dropout",
        description="Share of the adapter's inputs (or of what its method drops instead) that is left out in "
        "each step, against learning the pictures by heart.",
        json_schema_extra=about("advanced", "share"),
    )
    module_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Dropout of layers",
        description="Share of the steps in which a layer's whole change is left out.",
        json_schema_extra=about("advanced", "share"),
    )
    initialisation: Annotated[str, one_of(*INITIALISATIONS)] = Field(
        default="default",
        title="Start",
        description="default: at nothing. pissa, olora: the base's own strongest directions, taken out of "
        "it. eva: what the layers see of the pictures.",
        json_schema_extra=about("advanced", choices=INITIALISATIONS),
    )
    unet_targets: Annotated[str, one_of("none", *UNET_TARGETS)] = Field(
        default="attention",
        title="Layers of the UNet",
        description="Which layers of the UNet are adapted; “none” leaves it as it is.",
        json_schema_extra=about("advanced", choices=("none", *UNET_TARGETS)),
    )
    text_targets: Annotated[str, one_of("none", *TEXT_TARGETS)] = Field(
        default="attention",
        title="Layers of the text encoder",
        description="Which layers of the text encoder are adapted; “none” leaves it as it is.",
        json_schema_extra=about("advanced", choices=("none", *TEXT_TARGETS)),
    )
    text_rank: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Rank in the text encoder",
        description="Empty: as in the UNet.",
        json_schema_extra=about("advanced"),
    )
    text_alpha: float | None = Field(
        default=None,
        gt=0,
        le=1024,
        title="Alpha in the text encoder",
        description="Empty: as in the UNet.",
        json_schema_extra=about("advanced"),
    )
    block_ranks: Annotated[tuple[str, ...], _blocks(1, 256, whole=True)] = Field(
        default=(),
        max_length=64,
        title="Ranks of blocks",
        description="Blocks with another rank, as “down_blocks.1=16” or “up_blocks=4”.",
        json_schema_extra=about("advanced"),
    )
    block_alphas: Annotated[tuple[str, ...], _blocks(1e-3, 1024)] = Field(
        default=(),
        max_length=64,
        title="Alphas of blocks",
        description="Blocks with another alpha, as “mid_block=4”.",
        json_schema_extra=about("advanced"),
    )
    block_rates: Annotated[tuple[str, ...], _blocks(0, 100)] = Field(
        default=(),
        max_length=64,
        title="Learning rates of blocks",
        description="Blocks that learn faster or slower: what their learning rate is multiplied by, as "
        "“up_blocks.1=0.5”; 0 leaves them as they are.",
        json_schema_extra=about("advanced"),
    )
    token_vectors: int = Field(
        default=4,
        ge=1,
        le=64,
        title="Vectors of the word",
        description="Where a word is learned: how many tokens of a prompt it takes. More hold more, and "
        "leave less room in the prompt.",
        json_schema_extra=about("advanced", "tokens"),
    )
    token_init: str = Field(
        default="",
        max_length=100,
        title="Start of the word",
        description="Where a word is learned: the known words that it starts as, for instance “creature”. "
        "Empty: at random, like any word.",
        json_schema_extra=about("advanced"),
    )
    token_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate of the word",
        description="Size of a step on a learned word. Empty: 5e-3.",
        json_schema_extra=about("advanced"),
    )
    tokens_alone: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        title="The word alone",
        description="In pivotal tuning: the share of the steps in which only the word learns; from then on "
        "it is held. 0: both learn all the time.",
        json_schema_extra=about("advanced", "share"),
    )

    @model_validator(mode="after")
    def _sizes(self) -> AdapterConfig:
        row = TUNINGS[self.method]
        means = meaningful(self.method)
        for name in self.given(*means):
            if not means[name]:
                raise ValueError(
                    f"{name}: means nothing for method {self.method!r} ({row.label}); leave it out"
                )
        if self.initialisation not in row.initialisations:
            able = [other.id for other in TUNINGS.values() if self.initialisation in other.initialisations]
            raise ValueError(
                f"initialisation: {row.label} has no start {self.initialisation!r}; choose "
                f"{' or '.join(map(repr, row.initialisations))}, or method {' or '.join(map(repr, able))}"
            )
        ranks = (self.rank, self.text_rank, *by_block(self.block_ranks).values())
        for rank in ranks if "rank" in row.uses else ():
            if rank is not None and rank % row.rank_multiple:
                raise ValueError(
                    f"rank: got {rank:g}, expected a multiple of {row.rank_multiple} for {row.label}; "
                    f"use {int(rank - rank % row.rank_multiple) or row.rank_multiple}"
                )
        return self

    @model_validator(mode="after")
    def _targets(self) -> AdapterConfig:
        row = TUNINGS[self.method]
        if not row.components:
            return self
        parts = {"unet": self.unet_targets, "text": self.text_targets}
        reached = [targets for part, targets in parts.items() if part in row.components and targets != "none"]
        if not reached and not row.tokens:
            names = " or ".join(
                "unet_targets" if part == "unet" else "text_targets" for part in row.components
            )
            raise ValueError(f"{names}: got 'none' throughout, nothing would be trained; choose layers")
        convolutions = {"conv", "norm", "attention"} & set(row.sits_on)
        if self.unet_targets == "all" and not convolutions and not row.endings and "unet" in row.components:
            raise ValueError(
                f"unet_targets: got 'all', but {row.label} can't sit on convolutions; choose 'attention+ff'"
            )
        if self.initialisation in ("pissa", "olora") and self.unet_targets == "all":
            raise ValueError(
                f"unet_targets: got 'all', but initialisation {self.initialisation!r} is for linear layers; "
                "choose 'attention'"
            )
        for field, texts in (("text_rank", self.text_rank), ("text_alpha", self.text_alpha)):
            if texts is not None and self.text_targets == "none":
                raise ValueError(f"{field}: means nothing with text_targets 'none'; leave it out")
        return self

    @model_validator(mode="after")
    def _words(self) -> AdapterConfig:
        able = {
            "token_vectors": [row.id for row in TUNINGS.values() if row.tokens],
            "token_init": [row.id for row in TUNINGS.values() if row.tokens],
            "token_learning_rate": [row.id for row in TUNINGS.values() if row.tokens],
            "tokens_alone": [row.id for row in TUNINGS.values() if row.tokens and row.components],
        }
        for name in self.given(*able):
            if self.method not in able[name]:
                raise ValueError(
                    f"{name}: means nothing for method {self.method!r}; leave it out, or choose method "
                    f"{' or '.join(able[name])}"
                )
        return self
