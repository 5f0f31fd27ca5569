"""What `pigment dataset check` says of a set of pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PictureError

if TYPE_CHECKING:
    from studio.datasets import Dataset, Datasets


def checked(
    datasets: Datasets, dataset: Dataset, preset: str, kind: str = "", trigger: str = ""
) -> tuple[str, dict[str, Any]]:
    """Let the doctor look at a set, say what is cut, and estimate a training with a preset.

    kind, trigger: empty: as the set's settings say, else "subject" and a stand-in. Returns: for people, and
    for scripts.

    Raises: PictureError where the set is empty; ConfigError for an unknown preset or kind.
    """
    from studio.context import Context
    from studio.crops import crops
    from studio.estimates import estimate
    from studio.markup import duration, size
    from studio.runner import Runner
    from trainers.config import preset_config
    from trainers.doctor import examine
    from trainers.wording import prompts

    if not dataset.items:
        raise PictureError("the set has no pictures; add some with pigment dataset add --to")
    kind = kind or str(dataset.settings.get("kind") or "subject")
    trigger = trigger or str(dataset.settings.get("trigger") or "").strip() or "zib"
    said, about = prompts(kind, trigger, str(dataset.settings.get("class_name") or "thing"))
    with tempfile.TemporaryDirectory(dir=datasets.workspace.folder("cache")) as name:
        folder = Path(name)
        called = datasets.lay_out(dataset.id, folder)
        config = preset_config(
            preset, kind, instance_images=folder, output=folder, trigger=trigger, instance_prompt=said,
            class_prompt=about,
        )  # fmt: skip
        found = [finding.line() for finding in examine(config.data, config.run)]
    for file, own in called.items():
        found = [line.replace(file, own) for line in found]
    context = Context(datasets.workspace, Runner(datasets.workspace))
    cost = estimate(context, config, len(dataset.items))
    shapes: dict[str, int] = {}
    for crop in crops(dataset, config.data, datasets.workspace):
        shapes[f"{crop.width}×{crop.height}"] = shapes.get(f"{crop.width}×{crop.height}", 0) + 1
    learned = ", ".join(f"{count} as {shape}" for shape, count in sorted(shapes.items()))
    takes = "" if cost.seconds is None else f"about {duration(cost.seconds)}, "
    lines = [f"learned are {learned}", *(found or ["the doctor found nothing to mend"])]
    lines.append(f"preset {preset} takes {takes}{size(cost.bytes)} ({cost.basis})")
    data = {
        "findings": found, "shapes": shapes,
        "estimate": {"seconds": cost.seconds, "bytes": cost.bytes, "basis": cost.basis},
    }  # fmt: skip
    return "\n".join(lines), data
