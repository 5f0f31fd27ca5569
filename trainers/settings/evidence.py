"""What is measured while an adapter learns, and what becomes of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.evidence.record import SETS
from trainers.settings.fields import Section, about, one_of


class EvidenceConfig(Section):
    """What is measured besides the loss. Nothing of it changes what is learned, but an early stop."""

    candidates: int = Field(
        default=12, ge=0, le=1000, title="Candidates kept",
        description="Adapters of measured steps (run.evaluate_every) that are kept to choose from, at most; "
        "0: the last one only.",
        json_schema_extra=about("advanced", "adapters"),
    )  # fmt: skip
    take: Literal["recommended", "last"] = Field(
        default="recommended", title="Take",
        description="Which step the adapter is of: recommended, by the measures, or the last one.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    stop_early: bool = Field(
        default=False, title="Stop early",
        description="End the run when the best step lies as many measurements back as “Patience” says.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    patience: int = Field(
        default=4, ge=1, le=1000, title="Patience",
        description="Measurements without a better step before the run is ended.",
        json_schema_extra=about("advanced", "measurements"),
    )  # fmt: skip
    measured_on: tuple[Annotated[str, one_of(*SETS)], ...] = Field(
        default=tuple(SETS), max_length=len(SETS), title="Losses on",
        description="What losses are measured on, as far as there is such: "
        + "; ".join(f"{name}: {words}" for name, words in SETS.items()) + ".",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    class_samples: int = Field(
        default=4, ge=1, le=256, title="Class pictures measured on",
        description="Pictures that the base draws of the class and of other things, never learned from, by "
        "which is measured what it forgets; 0: none.",
        json_schema_extra=about("advanced", "pictures"),
    )  # fmt: skip
    samples: int = Field(
        default=2, ge=0, le=64, title="Pictures per prompt",
        description="Drawn at the end with each evidence prompt, to be measured; 0: none.",
        json_schema_extra=about("advanced", "pictures"),
    )  # fmt: skip
    evidence_prompts: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        default=(), max_length=32, title="Evidence prompts",
        description="What is drawn at the end to be measured, with the trigger. Empty: the prompt of the "
        "pictures in scenes of its own.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    report: bool = Field(
        default=True, title="Report",
        description="Leave report.html, evidence.png and a bundle to make the run again by.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    judge: str = Field(
        default="", max_length=300, title="Judge of likeness",
        description="A CLIP model (a folder, or a hub id such as org/name) that says how alike pictures are "
        "and how well they fit a prompt. Empty: the base's own image tower, where it has one.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    structure_judge: str = Field(
        default="", max_length=300, title="Judge of structure",
        description="A DINO-style image model (a folder, or a hub id) as a second opinion on how alike "
        "pictures are. Empty: none.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip

    @model_validator(mode="after")
    def _options_act_on_something(self) -> EvidenceConfig:
        """Refuse what would be set and change nothing."""
        if "class" not in self.measured_on and self.given("class_samples"):
            raise ValueError("class_samples: no class pictures are measured on; add “class” to measured_on")
        if len(set(self.measured_on)) < len(self.measured_on):
            raise ValueError(f"measured_on: got {list(self.measured_on)}, expected each once")
        if not self.stop_early and self.given("patience"):
            raise ValueError("patience: the run isn't ended early; set evidence.stop_early, or leave it out")
        if not self.samples and self.evidence_prompts:
            raise ValueError("evidence_prompts: nothing is drawn; set evidence.samples, or leave them out")
        if self.take == "recommended" and not self.candidates and self.given("take"):
            raise ValueError("take: no candidates are kept to choose from; set evidence.candidates")
        return self
