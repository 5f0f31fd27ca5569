"""Runs that are made to have a fault, two or more for every rule, to hold `evidence.rules` against them.

They teach the embedded base the concepts of `bench.concepts`. The thresholds were set on pool "dev", and the
rules mended where they missed faults of pool "test"; what they find in pool "proof" is what is told. Of one,
over_trained, proof was no proof any more: it spoke on two good runs there, and asks since that something was
forgotten too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.errors import ConfigError, StudioError, nearest
from trainers.bench.concepts import Captioned, Concept, concept, lay_out, taught
from trainers.bench.evidence_runs import POOLS
from trainers.bench.fault_rows import ROWS

if TYPE_CHECKING:
    from trainers.config import TrainConfig

MEASUREMENTS = 4
"""Measurements of each run, about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultRun:
    """One training that is made to have a fault.

    fault: a key of `rules.RULES`. pictures: how many are given. making: a key of MAKINGS, what becomes of
    them. fields: settings by name; steps among them.
    """

    id: str
    pool: str
    concept: str
    fault: str
    pictures: int
    making: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How long it learns."""
        return int(self.fields["steps"])

    def shortened(self, steps: int) -> FaultRun:
        """The same with few steps."""
        return replace(self, fields={**self.fields, "steps": min(steps, self.steps)})


# ── What is done to the pictures


def _as_they_are(pictures: list[Captioned], row: Concept) -> list[Captioned]:
    return pictures


def _one_layout(pictures: list[Captioned], row: Concept) -> list[Captioned]:
    """The first picture again and again, each time moved by a few pixels and a little brighter or darker."""
    picture, caption = pictures[0]
    pixels = np.asarray(picture, dtype=np.float32)
    found = []
    for number in range(len(pictures)):
        moved = np.roll(pixels, (number % 3 - 1, 2 * (number % 4) - 3), axis=(0, 1))
        changed = np.clip(moved * (0.94 + 0.03 * (number % 5)), 0, 255).round().astype(np.uint8)
        found.append((Image.fromarray(changed), caption))
    return found


def _nameless(pictures: list[Captioned], row: Concept) -> list[Captioned]:
    """Captions that leave the trigger out."""
    return [(picture, caption.replace(f"{row.trigger} ", "")) for picture, caption in pictures]


def _mostly_nameless(pictures: list[Captioned], row: Concept) -> list[Captioned]:
    """The first caption alone has the trigger."""
    return [*pictures[:1], *_nameless(pictures[1:], row)]


MAKINGS: dict[str, Callable[[list[Captioned], Concept], list[Captioned]]] = {
    "as-they-are": _as_they_are,
    "one-layout": _one_layout,
    "nameless": _nameless,
    "mostly-nameless": _mostly_nameless,
}


# ── The table


def _runs(pool: str, text: str) -> tuple[FaultRun, ...]:
    """Rows "fault concept pictures making steps field=value …", one a line; with "+" in front it goes on."""
    found = []
    for line in text.strip().replace("\n  +", "").splitlines():
        fault, concept_id, pictures, making, steps, *more = line.split()
        given = {name: _value(value) for name, _, value in (one.partition("=") for one in more)}
        fields = {"steps": int(steps), **given}
        if "rank" in given:
            fields.setdefault("alpha", float(given["rank"]))
        found.append(
            FaultRun(
                id=f"{fault}-{concept_id}",
                pool=pool,
                concept=concept_id,
                fault=fault,
                pictures=int(pictures),
                making=making,
                fields=fields,
            )
        )
    return tuple(found)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return (text.removeprefix("@").replace(":", "="),) if text.startswith("@") else text


FAULT_RUNS: dict[str, FaultRun] = {run.id: run for name, rows in ROWS.items() for run in _runs(name, rows)}

SHARED: dict[str, tuple[str, ...]] = {
    "rate_too_low": (
        "chalkboard-slow", "glimo-slow", "vantok-slow", "glass-slow",
        "crostu-slow", "beshti-slow", "ripples-slow",
    ),
    "under_trained": ("tuvli-brief", "dobrix-brief", "lodmip-brief"),
}  # fmt: skip
"""By rule the runs of `pigment bench evidence` that are made to have its fault; they aren't run again."""

WORSE = ("rate_too_high", "over_trained")
"""Rules that those runs of `pigment bench evidence` are made for that are meant to be too much: the former
where the loss on the learned pictures rose again too, else the latter.

They count where their score on unseen pictures really got worse.
"""


def pool(name: str, only: Sequence[str] = ()) -> list[FaultRun]:
    """The runs of a pool; those of the named faults or ids where some are.

    Raises: ConfigError for an unknown name.
    """
    if name not in POOLS:
        raise ConfigError(f"unknown pool {name!r}{nearest(name, POOLS)}")
    found = [run for run in FAULT_RUNS.values() if run.pool == name]
    known = [*dict.fromkeys([*(run.fault for run in found), *SHARED, *WORSE]), *(run.id for run in found)]
    for one in only:
        if one not in known:
            raise ConfigError(f"pool {name!r} has no run {one!r}{nearest(one, known)}")
    return [run for run in found if not only or run.fault in only or run.id in only]


# ── Running them


def config(run: FaultRun, folder: Path, device: str | None = "cpu") -> TrainConfig:
    """The training's config: as ordinary runs are made, but for what gives it its fault."""
    from trainers.config import preset_config

    row = concept(run.concept)
    small = {"batch_size": 2, "num_class_images": 16, "samples": 0, "report": False}
    prior = {"prior_batch_size": 1} if row.kind == "subject" else {}
    return preset_config(
        "sketch",
        row.kind,
        **{
            "instance_images": pictures_of(run, folder), "trigger": row.trigger, "name": run.id,
            "instance_prompt": row.instance_prompt, "class_prompt": row.class_prompt,
            "output": folder / run.pool / run.id, "cache": folder / "cache", "threads": 1, "device": device,
            "preview_every": 0, "checkpoint_every": run.steps,
            "evaluate_every": max(1, run.steps // MEASUREMENTS), **small, **prior, **run.fields,
        },
    )  # fmt: skip


def pictures_of(run: FaultRun, folder: Path) -> Path:
    """Where the pictures of a run lie, beside the runs."""
    return folder / "pictures" / f"{run.concept}-{run.pictures}-{run.making}"


def draw(run: FaultRun, folder: Path) -> None:
    """Lay the pictures of a run out, where they aren't there yet."""
    where, row = pictures_of(run, folder), concept(run.concept)
    if not where.is_dir():
        new = where.with_name(f".{where.name}.new")
        lay_out(MAKINGS[run.making](taught(row, run.pictures), row), new).rename(where)


def work(run: FaultRun, folder: Path, device: str | None = "cpu") -> str:
    """Train a run, in a process of one thread; return why it failed, or "".

    A loss that is no number leaves its record, and is no failure of a run that is made for it.
    """
    import torch

    from pipelines.base import quiet
    from trainers.evidence.record import RECORD_NAME
    from trainers.loop import train

    torch.set_num_threads(1)
    try:
        with quiet():
            for _ in train(config(run, folder, device), resume=False):
                pass
    except Exception as error:  # One run's fault may not cost the others' figures.
        if (folder / run.pool / run.id / RECORD_NAME).is_file() and isinstance(error, StudioError):
            return ""
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def run_all(
    runs: Sequence[FaultRun], folder: Path, jobs: int = 1, device: str | None = "cpu"
) -> Iterator[tuple[FaultRun, str]]:
    """Run what hasn't left its record yet; yield (run, why it failed or "") as they are done.

    Raises: StudioError where pictures can't be drawn.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    missing = [run for run in runs if not is_done(run, folder)]
    for run in missing:
        draw(run, folder)
    yield from ((run, "") for run in runs if run not in missing)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        asked = {workers.submit(work, run, folder, device): run for run in missing}
        for done in as_completed(asked):
            yield asked[done], done.result()


def is_done(run: FaultRun, folder: Path) -> bool:
    """Whether a run has left its record."""
    from trainers.evidence.record import read_record

    return read_record(folder / run.pool / run.id) is not None
