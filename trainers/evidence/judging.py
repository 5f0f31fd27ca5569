"""Measures all that can be measured of an adapter, afterwards, and writes it down as a run does."""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.base import Base
from pipelines.errors import StudioError
from pipelines.files import write_atomic
from pipelines.mixer import Mixer
from trainers.conditions import PromptEncoder
from trainers.config import TrainConfig
from trainers.dataset import Dataset, Item, frames, load_dataset
from trainers.events import TrainEvent
from trainers.evidence.anatomy import anatomy
from trainers.evidence.case import Case
from trainers.evidence.drawn import TAUGHT, draw_and_judge, judge_preview
from trainers.evidence.held_out import measure_sets
from trainers.evidence.judges import Judges, load_judges
from trainers.evidence.picture import evidence_picture
from trainers.evidence.provenance import machine, versions
from trainers.evidence.record import (
    EVIDENCE,
    PICTURE_NAME,
    Measured,
    Memorisation,
    Record,
    Seen,
    write_record,
)
from trainers.evidence.references import References
from trainers.evidence.report import write_report
from trainers.evidence.rules import verdict
from trainers.evidence.sets import Fixed, fix_sets
from trainers.evidence.uniform import alike
from trainers.preparing import before_captions, resolution_of, size_multiple
from trainers.prior import cache_folder

KEPT_SIDE = 384
"""Pixels of the longer side, at most, of a learned picture that is kept beside a drawn one."""

_UNKNOWN_STEP = 1
_BY_STEPS = ("under_trained", "rate_too_low")


def judge_adapter(case: Case, base: Base | None) -> Record:
    """Measure an adapter and write evidence.json, evidence.png and report.html; see `judging`."""
    steps = judging(case, base)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            record: Record = end.value
            return record


def judging(case: Case, base: Base | None) -> Generator[TrainEvent, None, Record]:
    """Measure an adapter and write it down in `case.out`, saying what goes on; return what is known then.

    Its anatomy always; with words what it draws; with pictures losses, likeness and copies too.

    base: holds no mix, and holds none in the end; None: only anatomy is measured, as far as the method
    allows. No random generator moves.
    Raises: AdapterError where the adapter doesn't fit; PictureError, ConfigError for pictures and judges
    that can't be used; StudioError where the folder can't be written.
    """
    work = _Work(case)
    yield _event("looking at the adapter")
    with work.part("anatomy"):
        found: dict[str, Any] = {"anatomy": anatomy(case.adapter, base)}
    dataset: Dataset | None = None
    if base is not None and case.config is not None:
        if case.pictures:
            dataset = load_dataset(before_captions(case.config.data), cache_folder(case.config.run.cache))
            yield from (TrainEvent(kind="warning", message=note) for note in dataset.notes)
        found |= yield from _drawn_and_measured(work, base, case.config, dataset)
    record = _record(case, base, dataset, found, work.seconds)
    yield _event("writing it down")
    try:
        _write(case, record, dataset)
    except OSError as error:
        raise StudioError(
            f"{str(case.out)!r} can't be written ({error.strerror}); choose another folder"
        ) from None
    return record


@dataclass(frozen=True, eq=False)
class _Work:
    """seconds: what each part took."""

    case: Case
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)


def _event(message: str) -> TrainEvent:
    return TrainEvent(kind="stage", message=message, data={"stage": "evidence"})


def _drawn_and_measured(
    work: _Work, base: Base, config: TrainConfig, dataset: Dataset | None
) -> Generator[TrainEvent, None, dict[str, Any]]:
    """What needs the adapter in the base: losses on fixed samples, and pictures."""
    case, found = work.case, dict[str, Any]()
    references = References((), ()) if dataset is None else References.of(dataset)
    with work.part("judges"):
        judges = load_judges(base, config.evidence, base.device)
    fixed = Fixed({})
    if dataset is not None:
        found["alike"] = alike(references.taught)
        yield _event("reading the pictures")
        with work.part("pictures"):
            fixed = yield from _fixed(base, config, dataset)
    with Mixer(base) as mixer:
        mixer.add(TAUGHT, case.adapter)
        if fixed.sets and not any(one.step == case.step for one in case.before.measured):
            yield _event("measuring losses")
            with work.part("losses"):
                found["measured"] = _losses(mixer, fixed, case.step or _UNKNOWN_STEP)
        if config.evidence.samples:
            yield _event(f"drawing; {judges.describe()}")
            with work.part("drawn"):
                _forget_drawn(case.out)
                drawn = draw_and_judge(base, mixer, config, references, case.out, case.step or 0, judges)
            found |= {"drawn": drawn.seen, "base": drawn.base, "memorisation": drawn.memorisation}
    with work.part("previews"):
        found["previews"] = tuple(_previews(case, config, references, judges))
    return found


def _fixed(base: Base, config: TrainConfig, dataset: Dataset) -> Generator[TrainEvent, None, Fixed]:
    """The samples that losses are measured on, the same as while a run learns."""
    data, sizes = config.data, (resolution_of(base, config), size_multiple(base))
    learn = frames(dataset.learn, data, *sizes, seed=config.run.seed)
    held_out = frames(dataset.held_out, data, *sizes, plain=True)
    dataset.known.save()
    folder = cache_folder(config.run.cache)
    fixed: Fixed = yield from fix_sets(
        base, config, learn, held_out, folder, unmasked=data.unmasked_weight, total=config.run.steps
    )
    return fixed


def _losses(mixer: Mixer, fixed: Fixed, step: int) -> tuple[Measured, ...]:
    """Losses by the base itself, as step 0, and with the adapter."""
    base = mixer.base
    mixer.set({TAUGHT: 0.0})
    plain = PromptEncoder(base, trained=False)
    before = {name: one.predictions(base, plain, batch_size=16) for name, one in fixed.sets.items()}
    first = {name: one.judge(before[name]) for name, one in fixed.sets.items()}
    mixer.set({TAUGHT: 1.0})
    losses, moved = measure_sets(fixed.sets, base, PromptEncoder(base, trained=False), before)
    still = dict.fromkeys(moved, 0.0)
    return (
        Measured(step=0, losses=first, drift=still.get("class"), moved=still),
        Measured(step=step, losses=losses, drift=moved.get("class"), moved=moved),
    )


def _previews(case: Case, config: TrainConfig, references: References, judges: Judges) -> Iterator[Seen]:
    """The run's previews, judged where they lie in the folder and weren't yet."""
    for seen in case.before.previews:
        files = [case.out / file for file in seen.files]
        if seen.prompt_similarity is None and files and all(file.is_file() for file in files):
            judged = judge_preview(files, seen.prompts, judges, references, config.data)
            own = {"step": seen.step, "files": seen.files, "seeds": seen.seeds}
            seen = judged.model_copy(update=own)
        yield seen


def _record(
    case: Case, base: Base | None, dataset: Dataset | None, found: dict[str, Any], seconds: dict[str, float]
) -> Record:
    """All that is known, with the verdict."""
    about = {"name": case.adapter.name, "family": case.adapter.family, "steps": case.step}
    if case.config is not None:
        about |= {"kind": case.config.data.kind, "trigger": case.config.data.trigger}
    if base is not None and case.config is not None:
        about |= {"base": Path(base.ref).name, "base_sha256": base.sha256}
    if dataset is not None:
        counts = {"pictures": len(dataset.learn), "held_out": len(dataset.held_out)}
        about |= {"data_sha256": dataset.sha256, **counts}
    known = {**case.before.run, **{name: value for name, value in about.items() if value is not None}}
    record = case.before.model_copy(
        update={
            "run": known, "config": case.settings, "seconds": {**case.before.seconds, **seconds},
            "environment": {"machine": machine(), "versions": versions()}, **found,
        }
    )  # fmt: skip
    findings = verdict(record)
    if case.step is None:  # what is said of steps would be made up
        findings = tuple(one for one in findings if one.rule not in _BY_STEPS)
    return record.model_copy(update={"verdict": findings})


def _write(case: Case, record: Record, dataset: Dataset | None) -> None:
    """Write the record, and what is made of it for people to look at."""
    case.out.mkdir(parents=True, exist_ok=True)
    if dataset is not None and record.memorisation is not None:
        _keep_nearest(case.out, record.memorisation, dataset)
    write_record(case.out, record)
    encoded = io.BytesIO()
    evidence_picture(case.out, record).save(encoded, format="PNG")
    write_atomic(case.out / PICTURE_NAME, [encoded.getvalue()])
    write_report(case.out)


def _keep_nearest(out: Path, found: Memorisation, dataset: Dataset) -> None:
    """Keep the learned pictures of the pairs, small, so that they can be looked at side by side."""
    items: dict[str, Item] = {item.name: item for item in dataset.learn}
    for name in dict.fromkeys(pair.nearest for pair in found.pairs):
        path = out / EVIDENCE / name
        kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
        picture = items[name].source.image
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, format=kind if kind in Image.SAVE else "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, [encoded.getvalue()])


def _forget_drawn(out: Path) -> None:
    """Remove what was drawn here before."""
    for kind in ("drawn", "base"):
        for path in (out / EVIDENCE).glob(f"{kind}-[0-9]*.png"):
            path.unlink()
