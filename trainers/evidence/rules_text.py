"""How much a text encoder changed beside the UNet, from a record alone."""

from __future__ import annotations

from math import log, sqrt

from pipelines.methods import TUNINGS
from trainers.evidence.record import Block, Record

_TEXT = "text_encoder"


def text_share(record: Record) -> float | None:
    """Return how much the text encoder changed for each part that the UNet did, as the log to the base 10.

    By ‖ΔW‖/‖W‖ of both where a base was at hand, else by ‖ΔW‖. None where one of the two wasn't to learn.
    """
    if record.anatomy is None or not _both_learn(record):
        return None
    text = [block for block in record.anatomy.blocks if block.name.startswith(_TEXT)]
    unet = [block for block in record.anatomy.blocks if not block.name.startswith(_TEXT)]
    if not text or not unet:
        return None
    ours, theirs = _size(text), _size(unet)
    if theirs <= 0:
        return None
    return log(max(ours / theirs, 1e-9), 10)


def _both_learn(record: Record) -> bool:
    method = record.setting("adapter", "method")
    components = TUNINGS[method].components if method in TUNINGS else ()
    targets = (record.setting("adapter", "text_targets"), record.setting("adapter", "unet_targets"))
    return {"unet", "text"} <= set(components) and "none" not in targets


def _size(blocks: list[Block]) -> float:
    """Root mean square of what blocks changed by, each of its modules alike."""
    count = sum(block.modules for block in blocks) or 1
    if all(block.relative is not None for block in blocks):
        return sqrt(sum(block.modules * float(block.relative or 0) ** 2 for block in blocks) / count)
    return sqrt(sum(block.norm**2 for block in blocks) / count)
