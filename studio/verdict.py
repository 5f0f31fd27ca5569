"""What came out of a training, in words: the step to take by the held-out loss, and a pair to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from studio.jobs import Job
from studio.runlog import RunLog

ALIKE = 0.01
"""Losses that differ by less than this share are the same: another noise would change their order."""
_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Verdict:
    """What a person should think of a run.

    Attributes:
        step: the one to take, of those of which something is kept; 0 where nothing is yet.
        words: why, with the numbers.
        before, after: addresses of pictures of one prompt and seed, by the base and at `step` (or the
            preview next to it); empty where there are none. prompt: theirs.
    """

    step: int
    words: str
    before: str = ""
    after: str = ""
    prompt: str = ""


def verdict(log: RunLog, job: Job) -> Verdict:
    """Judge a run by its log and by what its folder holds."""
    kept = kept_steps(log.path.parent, log.total if job.state == "done" else 0)
    if not kept:
        return Verdict(0, "Nothing has been kept of it yet.")
    step, words = _chosen(log.held_out, kept, done=job.state == "done")
    if job.state != "done":
        words = f"It ended early, at step {max(log.step, kept[-1])} of {log.total}. {words}"
    before, after, prompt = _pair(log, job.id, step)
    return Verdict(step, words, before, after, prompt)


def kept_steps(folder: Path, last: int) -> list[int]:
    """The steps of which a run's folder holds a checkpoint or, of the `last` one, the adapter; in order."""
    found = {
        int(match[1])
        for path in (folder / "checkpoints").glob("step-*/MANIFEST.json")
        if (match := _FOLDER.fullmatch(path.parent.name))
    }
    if last and (folder / "adapter.safetensors").is_file():
        found.add(last)
    return sorted(found)


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


def _pair(log: RunLog, job_id: str, step: int) -> tuple[str, str, str]:
    """Addresses of a preview's first picture by the base and near a step, and its prompt."""
    shown = {one: files[0] for one, files in sorted(log.previews.items()) if files}
    later = [one for one in shown if one > 0]
    if 0 not in shown or not later:
        return "", "", ""
    nearest = min(later, key=lambda one: (abs(one - step), one))
    address = [f"files/preview/{job_id}/{PurePosixPath(shown[one]).name}" for one in (0, nearest)]
    return address[0], address[1], log.prompts[0] if log.prompts else ""
