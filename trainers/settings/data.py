"""The pictures, and the words for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainers.settings.fields import Section, about

BACKGROUNDS = {"white": "#ffffff", "black": "#000000", "gray": "#808080"}
"""Colours that have a name here; others are written #rrggbb."""


FEW = 10
"""Of fewer pictures each counts, and none is held out unasked."""


class DataConfig(Section):
    """The pictures, and the words for them."""

    instance_images: Path = Field(
        title="Pictures",
        description="Folder with the pictures to learn from; its subfolders aren't read.",
        json_schema_extra=about("simple"),
    )
    kind: Literal["subject", "style"] = Field(
        default="subject",
        title="Kind",
        description="Whether the pictures share a subject or a style.",
        json_schema_extra=about("simple"),
    )
    trigger: str = Field(
        max_length=100,
        title="Trigger",
        description="The word that will call what is learned; best one that means nothing yet.",
        json_schema_extra=about("simple"),
    )
    instance_prompt: str = Field(
        max_length=1000,
        title="Prompt of the pictures",
        description="What the pictures show, with the trigger in it, for instance “a photo of zuv robot”.",
        json_schema_extra=about("simple"),
    )
    class_prompt: str = Field(
        default="",
        max_length=1000,
        title="Prompt of the class",
        description="The same without the trigger, for instance “a photo of a robot”. Pictures of it, and of "
        "other things, are made with the base and learned along, so that the base isn't forgotten. "
        "Empty, as for styles: of other things only.",
        json_schema_extra=about("simple"),
    )
    captions: Literal["prompt", "sidecar", "table"] = Field(
        default="sidecar",
        title="Captions",
        description="sidecar: a picture's caption is the .txt file of its name, where there is one. "
        "table: they stand in one file. prompt: all have the one prompt.",
        json_schema_extra=about("simple"),
    )
    captions_file: str = Field(
        default="",
        max_length=200,
        title="Table of captions",
        description="Name of a .jsonl or .csv file in the pictures' folder, with the columns file and "
        "caption, and if wanted repeats and mask. Empty: metadata.jsonl or metadata.csv, whichever is there.",
        json_schema_extra=about("advanced"),
    )
    captioner: str = Field(
        default="",
        max_length=300,
        title="Captioner",
        description="An image-to-text model (a folder, or a hub id such as org/name) that writes a caption "
        "file for every picture without one, before the training. Empty: none.",
        json_schema_extra=about("advanced"),
    )
    add_trigger: bool = Field(
        default=False,
        title="Add the trigger",
        description="Put the trigger in front of captions that lack it.",
        json_schema_extra=about("advanced"),
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, le=1, title="Left-out captions",
        description="Share of the samples that are learned without words, which keeps guidance working.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    shuffle_tags: bool = Field(
        default=False,
        title="Shuffle tags",
        description="Mix the comma-separated parts of a caption anew for every sample.",
        json_schema_extra=about("advanced"),
    )
    keep_tags: int = Field(
        default=1, ge=0, le=100, title="Tags that stay",
        description="How many tags stay in front when the others are shuffled.",
        json_schema_extra=about("advanced", "tags"),
    )  # fmt: skip
    background: str = Field(
        default="white",
        title="Background",
        description="What lies behind transparent parts: white, black, gray, or a colour as #rrggbb.",
        json_schema_extra=about("advanced"),
    )
    masks: Literal["none", "alpha", "file"] = Field(
        default="none",
        title="Masks",
        description="What counts in a picture. alpha: its opaque parts. file: the white parts of "
        "name.mask.png beside it, or of name.png in the folder “masks”. none: all of it.",
        json_schema_extra=about("advanced"),
    )
    unmasked_weight: float = Field(
        default=0.1, ge=0, le=1, title="Weight outside the mask",
        description="How much what a mask leaves out counts all the same.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    repeats: int = Field(
        default=1, ge=1, le=1000, title="Repeats",
        description="How often a picture comes in one round through all, where its folder or the table of "
        "captions doesn't say it.",
        json_schema_extra=about("advanced", "times"),
    )  # fmt: skip
    subfolders: bool = Field(
        default=False,
        title="Folders with repeats",
        description="Read subfolders named like “10_zuv dog” too: their pictures come 10 times in a round, "
        "with “zuv dog” as the prompt of those without a caption.",
        json_schema_extra=about("advanced"),
    )
    prior_weight: float = Field(
        default=1.0, ge=0, le=10, title="Weight of the class pictures",
        description="How much keeping what the base knows counts against learning the new; 0 leaves it out.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    prior_batch_size: int | None = Field(
        default=None, ge=1, le=256, title="Class pictures per step",
        description="Empty: as many as pictures.",
        json_schema_extra=about("advanced", "pictures"),
    )  # fmt: skip
    num_class_images: int = Field(
        default=48, ge=1, le=2000, title="Class pictures",
        description="How many there are; what is missing is made with the base.",
        json_schema_extra=about("advanced", "pictures"),
    )  # fmt: skip
    class_images: Path | None = Field(
        default=None, title="Folder of class pictures",
        description="Pictures of the class that are there already, with .txt captions or the prompt of the "
        "class. Empty: all are made.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    prior_breadth: float = Field(
        default=0.5, ge=0, le=1, title="Other things among the class pictures",
        description="Share of the class pictures that show other things than the class.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    resolution: int | None = Field(
        default=None, ge=16, le=2048, title="Resolution",
        description="Side of the square that is learned from; a picture of another shape has about as many "
        "pixels. Empty: the base's own.",
        json_schema_extra=about("advanced", "pixels"),
    )  # fmt: skip
    buckets: bool = Field(
        default=True,
        title="Keep the shape",
        description="On: a picture is learned in the nearest of some shapes, so that little is cut off. "
        "Off: squares are cut out of it.",
        json_schema_extra=about("advanced"),
    )
    bucket_step: int | None = Field(
        default=None, ge=8, le=512, title="Step of the shapes",
        description="Sides are multiples of this. Empty: the smallest that the base can draw.",
        json_schema_extra=about("advanced", "pixels"),
    )  # fmt: skip
    bucket_aspect: float = Field(
        default=2.0, ge=1, le=8, title="Longest shape",
        description="At most this many times as long as wide; longer pictures are cut to it.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    center_crop: bool = Field(
        default=True,
        title="Cut the middle",
        description="On: the middle of a picture. Off: three parts along its longer side, where it is cut.",
        json_schema_extra=about("advanced"),
    )
    flip: bool = Field(
        default=False,
        title="Mirror",
        description="Learn from mirrored pictures too; not for faces, letters and one-sided things.",
        json_schema_extra=about("advanced"),
    )
    augment: Literal["none", "crop", "colour", "both"] = Field(
        default="none",
        title="Variation",
        description="Learn from slightly changed pictures too. crop: cut a little closer and off the middle. "
        "colour: brighter, darker, another hue.",
        json_schema_extra=about("advanced"),
    )
    augment_strength: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        title="Strength of the variation",
        description="At most this share of a side is cut off, and brightness and contrast change by this "
        "share; the hue turns by a fifth of it.",
        json_schema_extra=about("advanced"),
    )
    variants: int = Field(
        default=4, ge=2, le=64, title="Variations of a picture",
        description="How many there are of each picture, itself among them.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    held_out: int | None = Field(
        default=None, ge=0, le=100, title="Held-out pictures",
        description="Pictures, the last by name, that are only measured on. Empty: none of fewer than 10, "
        "since each counts; else a tenth of them, 2 to 16.",
        json_schema_extra=about("advanced", "pictures"),
    )  # fmt: skip

    held_out_share: float = Field(
        default=0.0, ge=0, le=0.5, title="Held-out share",
        description="Instead of the last pictures by name: this share of them, chosen by chance.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    split_seed: int = Field(
        default=0, ge=0, le=2**63 - 1, title="Seed of the held-out share",
        description="Another seed holds out other pictures.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip

    def set_aside(self, total: int) -> int:
        """Return how many of `total` pictures are held out; it may be all of them, which can't be."""
        if self.held_out_share:
            return max(1, round(self.held_out_share * total))
        if self.held_out is not None:
            return self.held_out
        return 0 if total < FEW else min(16, max(2, round(total / 10)))

    @model_validator(mode="after")
    def _trigger_in_prompt(self) -> DataConfig:
        if not self.trigger:
            raise ValueError("trigger: got nothing, expected a word that will call what is learned; give one")
        if not self.instance_prompt:
            raise ValueError("instance_prompt: got nothing, expected what the pictures show; write it")
        if self.trigger.casefold() not in self.instance_prompt.casefold():
            raise ValueError(
                f"instance_prompt: got {self.instance_prompt!r}, "
                f"expected the trigger {self.trigger!r} in it; add it"
            )
        return self

    @field_validator("captions_file")
    @classmethod
    def _in_the_folder(cls, value: str) -> str:
        if value and (Path(value).name != value or Path(value).suffix.lower() not in (".jsonl", ".csv")):
            raise ValueError(
                f"got {value!r}, expected the name of a .jsonl or .csv file in the folder of the pictures; "
                "put it there"
            )
        return value

    @field_validator("background")
    @classmethod
    def _a_colour(cls, value: str) -> str:
        if value not in BACKGROUNDS and not re.fullmatch("#[0-9a-fA-F]{6}", value):
            raise ValueError(f"got {value!r}, expected {', '.join(BACKGROUNDS)} or #rrggbb")
        return value

    @model_validator(mode="after")
    def _options_act_on_something(self) -> DataConfig:
        """Refuse what would be set and change nothing."""
        idle = (
            (("captions_file",), self.captions != "table", "it is read with data.captions = “table” only"),
            (
                ("captioner",),
                self.captions == "prompt",
                "all have the one prompt; choose data.captions",
            ),
            (("keep_tags",), not self.shuffle_tags, "nothing is shuffled; set data.shuffle_tags"),
            (("unmasked_weight",), self.masks == "none", "there are no masks; choose data.masks"),
            (("bucket_step", "bucket_aspect"), not self.buckets, "squares have one shape; set data.buckets"),
            (
                ("variants", "augment_strength"),
                self.augment == "none",
                "nothing varies; choose data.augment",
            ),
            (("class_images",), not self.prior_weight, "class pictures are left out; set data.prior_weight"),
            (("split_seed",), not self.held_out_share, "nothing is chosen; set data.held_out_share"),
        )
        for names, without, why in idle:
            for name in self.given(*names) if without else ():
                raise ValueError(f"{name}: got {getattr(self, name)!r}, but {why}, or leave it out")
        if self.held_out and self.held_out_share:
            raise ValueError(
                f"held_out_share: got {self.held_out_share} beside held_out = {self.held_out}; "
                "expected one way to hold out; set the other to 0"
            )
        if self.captioner and not self.add_trigger:
            raise ValueError(
                f"captioner: got {self.captioner!r}, whose captions don't know the trigger; "
                "set data.add_trigger"
            )
        return self
