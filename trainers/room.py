"""Room on the disk: what a run will write, asked for before it starts, and what becomes of a full disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import StudioError
from trainers.config import TrainConfig

SLACK_BYTES = 200_000_000
"""What a run wants beside what can be counted."""

CANDIDATE_BYTES = 4 * 2**30
"""What all candidates of a run may take; fewer are kept where one is large, but two."""

# fp32: a number that learns, AdamW's two averages of it, its own average where one is kept; fp16: candidates.
_CHECKPOINT, _AVERAGE, _ADAPTER, _CANDIDATE = 12, 4, 4, 2
# A PNG is at most its pixels and a little.
_PIXEL = 3.1
_PREVIEW_PROMPTS = 2


def run_bytes(config: TrainConfig, resolution: int, numbers: int) -> int:
    """Bytes that a run leaves in its folder at most.

    resolution: side of previews in pixels where the config doesn't say. numbers: that learn; 0 leaves out
    checkpoints, candidates and the adapter. One checkpoint more than are kept is there while it is written.
    """
    run = config.run
    each = _CHECKPOINT + (_AVERAGE if config.optimizer.ema_decay else 0)
    state = numbers * (each * (run.keep_checkpoints + 1) + _ADAPTER)
    if run.evaluate_every:
        measured = 1 + run.steps // run.evaluate_every
        most = max(2, CANDIDATE_BYTES // max(1, numbers * _CANDIDATE))
        state += numbers * _CANDIDATE * min(config.evidence.candidates, measured, most)
    looks = 2 + run.steps // run.preview_every if run.preview_every else 0
    prompts = (len(run.preview_prompts) or _PREVIEW_PROMPTS) * (len(run.preview_seeds) or 1)
    pixels = (run.preview_width or resolution) * (run.preview_height or resolution)
    return int(state + looks * prompts * pixels * _PIXEL)


def cache_bytes(config: TrainConfig, resolution: int) -> int:
    """Bytes that a run must be able to keep in the cache folder: the class pictures that are made.

    Latents and embeddings are kept there too where there is room; a run goes on without.
    """
    made = config.data.num_class_images if config.data.prior_weight else 0
    return int(made * resolution**2 * _PIXEL)


def check_room(config: TrainConfig, resolution: int, numbers: int = 0) -> None:
    """Ask for the room that a run needs; checkpoints that are there already give theirs.

    Raises: StudioError where a disk hasn't got it, with what is free, what is needed, and where.
    """
    from trainers.prior import cache_folder  # loads torch

    there = sum(path.stat().st_size for path in config.run.output.glob("checkpoints/*/*") if path.is_file())
    needs: dict[int, tuple[Path, int]] = {}
    for folder, size in (
        (config.run.output, max(0, run_bytes(config, resolution, numbers) - there) + SLACK_BYTES),
        (cache_folder(config.run.cache), cache_bytes(config, resolution)),
    ):
        parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        disk = parent.stat().st_dev
        needs[disk] = (needs.get(disk, (parent, 0))[0], needs.get(disk, (parent, 0))[1] + size)
    for parent, needed in needs.values():
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise StudioError(
                f"disk has {free // 1_000_000} MB free at {str(parent)!r}, the run needs "
                f"{-(-needed // 1_000_000)} MB; make room, or keep fewer checkpoints or previews"
            )


@contextmanager
def pausing_when_full() -> Iterator[None]:
    """Turn a disk that fills up into a StudioError that begins with "paused: disk full"."""
    try:
        yield
    except (OSError, StudioError) as error:
        if str(error).startswith("paused:") or (said := disk_full(error)) is None:
            raise
        raise StudioError(said) from error


def disk_full(error: BaseException) -> str | None:
    """The line for an error that came of a full disk, or a quota; None for another one.

    Also for one that says in other words what couldn't be written, raised while that was handled.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "paused: disk full; the last checkpoint is kept: make room and start again to go on"
        cause = cause.__cause__ or cause.__context__
    return None
