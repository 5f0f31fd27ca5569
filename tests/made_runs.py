"""Run folders with made-up evidence, for what reads it: no figure in them was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from trainers.config import preset_config
from trainers.evidence.record import (
    Anatomy,
    Block,
    Choice,
    Loss,
    Measured,
    Memorisation,
    Pair,
    Record,
    Seen,
    write_record,
)

HOSTILE = "<script>alert(1)</script> \"'> {{x}} ${y} http://elsewhere.example/x.png"


def painted(folder: Path, name: str, colour: str = "teal", side: int = 24) -> str:
    """Save a picture of one colour below a folder; its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)
    return name


def losses(step: int) -> Measured:
    """Errors that fall on the pictures and rise on other things."""
    falls = {"held_out": 0.2 - step / 1000, "teaching": 0.2 - step / 800, "class": 0.1 + step / 2000}
    return Measured(
        step=step,
        losses={name: Loss(mean=mean, bands=(mean, mean, mean, mean)) for name, mean in falls.items()},
        drift=step / 1e4,
    )


def seen(step: int, *files: str, **figures: Any) -> Seen:
    """Pictures of one moment."""
    known = {"image_similarity": 0.5 + step / 1000, "prompt_similarity": 0.3, "diversity": 0.2, "drift": 0.01}
    prompts = tuple(f"a zib, {number}" for number in range(len(files)))
    return Seen(step=step, files=files, prompts=prompts, seeds=(7,) * len(files), **{**known, **figures})


def made_record(folder: Path, name: str = "Zib", **changes: Any) -> Record:
    """A record of a run whose pictures lie in `folder`; fields of the record by name go before."""
    previews = {step: painted(folder, f"previews/step-{step:06d}-00.png") for step in (0, 50, 100)}
    drawn = painted(folder, "evidence/drawn-00.png", "red")
    taught = painted(folder, "evidence/01.png", "gold")
    block = Block(name="mid_block", modules=4, norm=1.0, share=0.7, rank=2.0, dead=1)
    config = preset_config(
        "sketch", "subject", instance_images=folder, trigger="zib", instance_prompt="a zib", output=folder,
        steps=100, rank=4,
    )  # fmt: skip
    known: dict[str, Any] = {
        "run": {"name": name, "kind": "subject", "trigger": "zib", "steps": 100, "pictures": 4, "held_out": 1,
                "base": "pocket", "base_sha256": "ab" * 32, "data_sha256": "cd" * 32},
        "config": config.public(),
        "curve": tuple((step, 0.3 - step / 1000, 1.0, 1e-4) for step in range(1, 101)),
        "measured": tuple(losses(step) for step in (0, 50, 100)),
        "previews": tuple(seen(step, file) for step, file in previews.items()),
        "drawn": seen(50, drawn),
        "base": seen(0, painted(folder, "evidence/base-00.png", "navy")),
        "memorisation": Memorisation(
            thresholds={"structure": 0.8}, calibrated="pairs of the pictures",
            pairs=(Pair(picture=drawn, nearest=Path(taught).name, structure=0.9, flagged=True),),
        ),
        "anatomy": Anatomy(
            blocks=(block,), norm=1.0, text_share=0.0, rank=16, rank_95=2, rank_99=4, error_99=0.1
        ),
        "choice": Choice(step=50, last=100, rule="held_out", reason="It explains unseen pictures best."),
        "environment": {"machine": {"cores": 2}, "versions": {"python": "3"}},
        "seconds": {"run": 12.0},
    }  # fmt: skip
    return Record(**{**known, **changes})


def made_run(folder: Path, name: str = "Zib", **changes: Any) -> Path:
    """A run's folder with evidence.json and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, made_record(folder, name, **changes))
    return folder
