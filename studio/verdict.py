"""What came out of a training, in words: the step to take, what is the matter with it, and a pair to look at.

What was measured stands in a run's record (`trainers.evidence.record`); of a run that ended before there was
one, the log tells. Runs of an older Pigment are judged by the held-out loss alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from pipelines.errors import StudioError
from studio import markup
from studio.jobs import Job
from studio.runlog import RunLog
from trainers.evidence.choice import choose
from trainers.evidence.record import CANDIDATES, RECORD_NAME, Loss, Measured, Record, read_record

ALIKE = 0.01
"""Losses that differ by less than this share are the same: another noise would change their order."""
_FOLDER = re.compile(r"step-(\d{6,})")
_FILE = re.compile(r"step-(\d{6,})\.safetensors")


@dataclass(frozen=True)
class Verdict:
    """What a person should think of a run.

    Attributes:
        step: the one to take, of those of which something is kept; 0 where nothing is yet.
        words: why, with the numbers.
        before, after: addresses of pictures of one prompt and seed, by the base and at `step` (or the
            preview next to it); empty where there are none. prompt: theirs.
        record: what is known of the run; None where nothing was written down.
        trouble: why a record that is there can't be read.
    """

    step: int
    words: str
    before: str = ""
    after: str = ""
    prompt: str = ""
    record: Record | None = None
    trouble: str = ""


def verdict(log: RunLog, job: Job) -> Verdict:
    """Judge a run by its record, or else by its log and by what its folder holds."""
    folder, trouble, record = log.path.parent, "", None
    try:
        record = known(folder)
    except StudioError as error:
        trouble = str(error)
    kept = kept_steps(folder, log.taken or (log.total if job.state == "done" else 0))
    if not kept:
        return Verdict(0, "Nothing has been kept of it yet.", record=record, trouble=trouble)
    step, words = _recommended(log, record, kept, done=job.state == "done")
    if job.state != "done" and not (record and record.verdict):
        words = f"It ended early, at step {max(log.step, kept[-1])} of {log.total}. {words}"
    return Verdict(step, words, *_pair(log, record, job.id, step), record=record, trouble=trouble)


def known(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none. Raises: StudioError where it can't be read."""
    try:
        found = (folder / RECORD_NAME).stat()
    except OSError:
        return None
    return _read(folder, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _read(folder: Path, changed: int, size: int) -> Record | None:
    return read_record(folder)


def kept_steps(folder: Path, last: int) -> list[int]:
    """The steps of which a run's folder holds an adapter or a checkpoint, in order.

    last: the step that adapter.safetensors is of, 0 while there is none.
    """
    found = {
        int(match[1])
        for path in (folder / "checkpoints").glob("step-*/MANIFEST.json")
        if (match := _FOLDER.fullmatch(path.parent.name))
    }
    if last and (folder / "adapter.safetensors").is_file():
        found.add(last)
    return sorted(found | candidates(folder).keys())


def candidates(folder: Path) -> dict[int, Path]:
    """The adapters of measured steps that a run's folder holds, by step."""
    return {
        int(match[1]): path
        for path in (folder / CANDIDATES).glob("step-*.safetensors")
        if (match := _FILE.fullmatch(path.name))
    }


def _recommended(log: RunLog, record: Record | None, kept: list[int], *, done: bool) -> tuple[int, str]:
    """The step to take, and why."""
    if record is not None and record.choice is not None and record.choice.step in kept:
        return record.choice.step, record.choice.reason
    if log.measured:
        measured = tuple(
            Measured(step=step, losses={name: Loss(mean=mean) for name, mean in means.items()})
            for step, means in sorted(log.measured.items())
        )
        if (choice := choose(Record(measured=measured), kept)) is not None:
            return choice.step, choice.reason
    return _chosen(log.held_out, kept, done=done)


def _chosen(held_out: dict[int, float], kept: list[int], *, done: bool) -> tuple[int, str]:
    """The step to take, and why."""
    last = kept[-1]
    learned = {step: loss for step, loss in held_out.items() if step > 0}
    if not learned:
        return last, (
            "No picture was held out, so no number tells when it was best: judge by the previews. "
            "Hold out one or two pictures next time to be told."
        )
    best = min(learned, key=lambda step: (learned[step], step))
    start, lowest = held_out.get(0), learned[best]
    if start is not None and lowest >= start * (1 - ALIKE):
        return last, (
            f"On pictures it hasn't learned from, the error was {_said(start)} before and at best "
            f"{_said(lowest)} (step {best}): it hasn't learned what they share. "
            "More steps, a higher rate or more pictures may help."
        )
    measured = {step: learned[step] for step in kept if step in learned}
    if not measured:
        return (
            last,
            f"The held-out error was lowest, {_said(lowest)}, at step {best}, of which nothing is kept.",
        )
    step = min(measured, key=lambda one: (measured[one] > min(measured.values()) * (1 + ALIKE), -one))
    fell = f"fell from {_said(start)} to {_said(learned[step])}" if start is not None else (
        f"is {_said(learned[step])}"
    )  # fmt: skip
    words = f"On pictures it hasn't learned from, the error {fell} at step {step}"
    if learned[step] <= lowest * (1 + ALIKE):
        words += ", as low as it got: " if step == last else ", and rises after it: "
        return step, words + ("take it as it is." if step == last and done else f"take step {step}.")
    return step, (
        f"{words}; it was lowest, {_said(lowest)}, at step {best}, of which nothing is kept. "
        f"Step {step} is the best that is; teaching again with {best} steps would be better."
    )


def _said(loss: float) -> str:
    return f"{loss:.4f}"


def _pair(log: RunLog, record: Record | None, job_id: str, step: int) -> tuple[str, str, str]:
    """Addresses of a picture by the base and near a step, and its prompt: a preview of that very step, else
    what was drawn of it, else the preview next to it."""
    shown = {one: files[0] for one, files in sorted(log.previews.items()) if files}
    later = [one for one in shown if one > 0]
    drawn, base = (record.drawn, record.base) if record is not None else (None, None)
    if step not in shown and drawn and base and drawn.step == step and drawn.files and base.files:
        names = [PurePosixPath(one.files[0]).name for one in (base, drawn)]
        before, after = (markup.url("evidence", job_id, name) for name in names)
        # The base is asked without the trigger, which says nothing to it.
        prompts = dict.fromkeys(one.prompts[0] for one in (base, drawn) if one.prompts)
        return before, after, " → ".join(prompts)
    if 0 not in shown or not later:
        return "", "", ""
    nearest = min(later, key=lambda one: (abs(one - step), one))
    before, after = (markup.url("preview", job_id, PurePosixPath(shown[one]).name) for one in (0, nearest))
    return before, after, log.prompts[0] if log.prompts else ""
