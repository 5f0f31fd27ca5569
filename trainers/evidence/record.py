"""What is known of a run: every figure that was measured, the choice and the verdict, as one JSON file.

Reading and writing it loads no torch, so that the page and the commands can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import StudioError
from pipelines.files import write_atomic

VERSION = 1
RECORD_NAME = "evidence.json"
PICTURE_NAME = "evidence.png"
REPORT_NAME = "report.html"
EVIDENCE = "evidence"
"""Folder, below a run's, of the pictures that were drawn to measure on, and of what each step came to."""
CANDIDATES = "candidates"
"""Folder, below a run's, of the adapters of measured steps: step-000050.safetensors …"""

BANDS = 4
"""Equal parts of the noise schedule that losses are told apart by, the least noise first."""

LEVELS = 8
"""Noise levels per held-out picture, at the middles of equal parts of the range."""
FEW_LEVELS = 4
"""Noise levels per picture of the other sets; its pictures share the range out among them."""
CLASS_LEVELS = 2
"""The same of the class set."""
TAUGHT = 6
"""Pictures that were learned from, at most, that losses are measured on; evenly out of all."""

SETS: dict[str, str] = {
    "held_out": "pictures that weren't learned from",
    "teaching": "the pictures that were learned from",
    "altered": "the pictures that were learned from, mirrored, which no step has seen",
    "plain": "the pictures that were learned from, told without the trigger",
    "class": "pictures that the base draws of its class and of other things",
}
"""What losses are measured on, always with the same noise and noise levels."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Loss(_Part):
    """Mean squared error of the prediction over a set. bands: by part of the schedule, `BANDS` of them."""

    mean: float
    bands: tuple[float, ...] = ()


class Measured(_Part):
    """One step. losses: by `SETS`, those that there are. drift: mean squared distance between what the
    adapter and what the base predicts on the class set; 0 before the first step. moved: the same by set."""

    step: int
    losses: dict[str, Loss] = Field(default_factory=dict)
    drift: float | None = None
    moved: dict[str, float] = Field(default_factory=dict)


class Seen(_Part):
    """What pictures of one moment are like; None where nothing could judge it.

    step: 0 is the base. files: below the run's folder. image_similarity: mean cosine with the pictures that
    were learned from (held-out ones where there are), by a CLIP-style encoder, CLIP-I; structure_similarity:
    by a DINO-style one. prompt_similarity: of each picture with its plain prompt (the trigger left out),
    CLIP-T. diversity: mean distance 1 − cosine between pictures of one prompt. drift: mean distance
    1 − cosine between pictures of unrelated prompts and the base's of the same seeds. unrelated_similarity:
    mean cosine of these with the pictures that were learned from.
    """

    step: int
    files: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    image_similarity: float | None = None
    structure_similarity: float | None = None
    prompt_similarity: float | None = None
    diversity: float | None = None
    drift: float | None = None
    unrelated_similarity: float | None = None


class Pair(_Part):
    """A drawn picture and the picture that was learned from which it is nearest to.

    picture: file below the run's folder. nearest: name of the learned picture. similarity: cosine of the
    embeddings. structure: structural similarity of the pixels, 1 the same. flagged: whether it is a copy.
    """

    picture: str
    nearest: str
    similarity: float | None = None
    structure: float
    flagged: bool = False


class Memorisation(_Part):
    """Whether pictures were copied. thresholds: by measure, beyond which a pair is flagged; calibrated says
    on what. pairs: the nearest ones, the most alike first."""

    thresholds: dict[str, float]
    calibrated: str
    pairs: tuple[Pair, ...]

    @property
    def flagged(self) -> int:
        """How many drawn pictures are copies."""
        return sum(pair.flagged for pair in self.pairs)


class Block(_Part):
    """What an adapter changes in one block. norm: ‖ΔW‖; relative: to the base's ‖W‖, None without a base.
    share: of the whole ‖ΔW‖². rank: effective rank, the mean over its modules. dead: modules without a
    change."""

    name: str
    modules: int
    norm: float
    relative: float | None = None
    share: float
    rank: float | None = None
    dead: int = 0


class Anatomy(_Part):
    """What an adapter is made of. rank: as stored. rank_95, rank_99: the lowest rank to which every module
    can be cut so that 95 and 99% of the energy, Σ‖ΔW‖², stays; error_95, error_99: relative error of ΔW then.
    text_share: of ‖ΔW‖² in text encoders. dead: names of modules without a change. note: what couldn't be
    said, in a sentence, such as of methods without ΔW."""

    blocks: tuple[Block, ...]
    norm: float
    text_share: float
    rank: int
    effective_rank: float | None = None
    rank_95: int | None = None
    rank_99: int | None = None
    error_95: float | None = None
    error_99: float | None = None
    dead: tuple[str, ...] = ()
    note: str = ""


class Choice(_Part):
    """The checkpoint to take. last: the last one measured. rule: a key of `choice.RULES`, or its LAST.
    reason: a sentence. scores: by step, lower is better."""

    step: int
    last: int
    rule: str
    reason: str
    scores: dict[int, float] = Field(default_factory=dict)


class Finding(_Part):
    """One thing that a rule has found. rule: a key of `rules.RULES`. words: what is the matter, with the
    figures. advice: what to change. changes: settings by name that "apply and run again" sets."""

    rule: str
    title: str
    words: str
    advice: str
    changes: dict[str, Any] = Field(default_factory=dict)
    severity: str = "problem"  # or "note"


class Onset(_Part):
    """Where numbers stopped being numbers. step: the first bad one. where: module, or "loss", "gradient".
    phase: "forward", "backward" or "update". repeated: whether it came again when the step was repeated."""

    step: int
    where: str
    phase: str
    words: str
    repeated: bool = True


class Record(_Part):
    """Everything; None or empty where it wasn't measured.

    run: name, kind, trigger, family, base, base_sha256, data_sha256, steps, pictures (number learned from),
    held_out (their number).
    alike: how alike the pictures are that were learned from, see `uniform.alike`.
    config: the public config (`TrainConfig.public`). curve: (step, loss, norm of the gradients, learning
    rate), evenly thinned. previews: by step. drawn: at the chosen step; base: the same by the base.
    seconds: what measuring took, by part, and "run" for the whole run so far.
    """

    evidence: int = VERSION
    run: dict[str, Any] = Field(default_factory=dict)
    alike: float | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    curve: tuple[tuple[int, float, float, float], ...] = ()
    measured: tuple[Measured, ...] = ()
    previews: tuple[Seen, ...] = ()
    drawn: Seen | None = None
    base: Seen | None = None
    memorisation: Memorisation | None = None
    anatomy: Anatomy | None = None
    onset: Onset | None = None
    choice: Choice | None = None
    verdict: tuple[Finding, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)

    def losses(self, name: str) -> dict[int, float]:
        """Mean losses of a set by step, in order; empty where it wasn't measured."""
        return {one.step: one.losses[name].mean for one in self.measured if name in one.losses}

    def setting(self, section: str, name: str) -> Any:
        """A setting of the run; None where it isn't known."""
        return self.config.get(section, {}).get(name)


def write_record(folder: Path, record: Record) -> Path:
    """Write evidence.json into a run's folder; return its path. Raises: OSError."""
    path = Path(folder) / RECORD_NAME
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, [text.encode() + b"\n"])
    return path


def read_record(folder: Path) -> Record | None:
    """Read what is known of a run; None where nothing has been measured.

    Raises: StudioError for a file that isn't one, or of a newer Pigment.
    """
    path = Path(folder) / RECORD_NAME
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("evidence", 0) > VERSION:
            raise StudioError(
                f"{path.name} is of version {values['evidence']}, this Pigment reads {VERSION}; update it"
            )
        return Record.model_validate(values)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        place = ".".join(map(str, mistake["loc"]))
        raise StudioError(
            f"{path.name} can't be read: {place}: {mistake['msg'][:100]}; run `pigment judge` anew"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise StudioError(
            f"{path.name} can't be read ({str(error)[:100]}); run `pigment judge` anew"
        ) from None
