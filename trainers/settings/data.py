"""The pictures, and the words for them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from trainers.settings.fields import Section, about


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
    captions: Literal["prompt", "sidecar"] = Field(
        default="sidecar",
        title="Captions",
        description="sidecar: a picture's caption is the .txt file of its name, where there is one. "
        "prompt: all have the one prompt.",
        json_schema_extra=about("simple"),
    )
    prior_weight: float = Field(
        default=1.0,
        ge=0,
        le=10,
        title="Weight of the class pictures",
        description="How much keeping what the base knows counts against learning the new; 0 leaves it out.",
        json_schema_extra=about("advanced"),
    )
    prior_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Class pictures per step",
        description="Empty: as many as pictures.",
        json_schema_extra=about("advanced", "pictures"),
    )
    num_class_images: int = Field(
        default=48,
        ge=1,
        le=2000,
        title="Class pictures",
        description="How many pictures are made with the base.",
        json_schema_extra=about("advanced", "pictures"),
    )
    prior_breadth: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Other things among the class pictures",
        description="Share of the class pictures that show other things than the class.",
        json_schema_extra=about("advanced"),
    )
    resolution: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        title="Resolution",
        description="Side of the square that is learned from. Empty: the base's own.",
        json_schema_extra=about("advanced", "pixels"),
    )
    center_crop: bool = Field(
        default=True,
        title="Cut the middle",
        description="On: the middle square of a picture. Off: three squares along its longer side.",
        json_schema_extra=about("advanced"),
    )
    flip: bool = Field(
        default=False,
        title="Mirror",
        description="Learn from mirrored pictures too; not for faces, letters and one-sided things.",
        json_schema_extra=about("advanced"),
    )
    held_out: int = Field(
        default=0,
        ge=0,
        le=100,
        title="Held-out pictures",
        description="Pictures, the last by name, that are only measured on.",
        json_schema_extra=about("advanced", "pictures"),
    )

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
