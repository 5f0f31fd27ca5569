"""Runs beside each other: what each has come to, the best marked, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, StudioError
from trainers.evidence.record import RECORD_NAME, Record, read_record
from trainers.evidence.report_charts import changed, percent
from trainers.evidence.report_facts import Setting, title, words

MOST = 6
"""Runs that fit beside each other, each with a colour of its own."""


@dataclass(frozen=True)
class Compared:
    """A run. folder: where its pictures lie; None: nowhere. name: none twice in a comparison."""

    name: str
    record: Record
    folder: Path | None = None


@dataclass(frozen=True)
class Measure:
    """A figure to compare runs by.

    value: record → figure; None where it wasn't measured. better: "low", "high", or "" where neither is.
    same_pictures: it means nothing beside a run that learned other pictures.
    """

    title: str
    value: Callable[[Record], float | None]
    better: str = ""
    write: Callable[[float], str] = "{:.2f}".format
    same_pictures: bool = False


@dataclass(frozen=True)
class Row:
    """A measure of every run. best: by run, whether none is better; nowhere where all are the same."""

    measure: Measure
    values: tuple[float | None, ...]
    best: tuple[bool, ...]

    def words(self) -> list[str]:
        """The figures as text, an empty one where it wasn't measured."""
        return ["" if value is None else self.measure.write(value) for value in self.values]


@dataclass(frozen=True)
class Comparison:
    """differing, alike: settings with each run's value as text. note: what can't be compared, or empty."""

    runs: tuple[Compared, ...]
    rows: tuple[Row, ...]
    differing: dict[Setting, tuple[str, ...]]
    alike: dict[Setting, str]
    note: str = ""


def step_of(record: Record) -> int | None:
    """The step that the adapter is of; None where it isn't known."""
    if record.drawn is not None:
        return record.drawn.step
    if record.choice is not None:
        return record.choice.step
    return record.measured[-1].step if record.measured else None


def _error(name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        return changed(record.losses(name)).get(step_of(record) or 0) if record.losses(name) else None

    return value


def _drawn(name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        found: float | None = getattr(record.drawn, name) if record.drawn is not None else None
        return found

    return value


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min"


MEASURES: tuple[Measure, ...] = (
    Measure("Error on unseen pictures", _error("held_out"), "low", percent, True),
    Measure("Error on taught pictures, mirrored", _error("altered"), "low", percent, True),
    Measure("Error on its class and other things", _error("class"), "low", percent, True),
    Measure("Likeness", _drawn("image_similarity"), "high", same_pictures=True),
    Measure("Structure", _drawn("structure_similarity"), "high", same_pictures=True),
    Measure("Keeps to the prompt", _drawn("prompt_similarity"), "high"),
    Measure("Variety", _drawn("diversity"), "high"),
    Measure("Drift of other things", _drawn("drift"), "low"),
    Measure(
        "Copies", lambda one: _number(one.memorisation.flagged if one.memorisation else None), "low", _whole
    ),
    Measure(
        "Things to mend", lambda one: float(sum(f.severity != "note" for f in one.verdict)), "low", _whole
    ),
    Measure("Step of the adapter", lambda one: _number(step_of(one)), "", _whole),
    Measure("Rank for 99%", lambda one: _number(one.anatomy.rank_99 if one.anatomy else None), "", _whole),
    Measure("Took", lambda one: _number(one.seconds.get("run")), "low", _seconds),
)
"""What runs are compared by. Errors are changes from the base's, in percent."""


def compare(runs: Sequence[Path | Record | Compared]) -> Comparison:
    """Put runs beside each other: folders with evidence.json, or what was read from there.

    Raises: ConfigError for fewer than two or more than `MOST`; StudioError for a folder without evidence.
    """
    if not 2 <= len(runs) <= MOST:
        raise ConfigError(f"got {len(runs)} run{'s' * (len(runs) != 1)} to compare, expected 2 to {MOST}")
    known = _named([_read(run) for run in runs])
    records = [run.record for run in known]
    note = _note(records)
    rows = tuple(row for measure in MEASURES if (row := _row(measure, records, not note)) is not None)
    settings = [_settings(record) for record in records]
    order = list(dict.fromkeys(name for one in settings for name in one))
    values = {name: tuple(one.get(name, "–") for one in settings) for name in order}
    return Comparison(
        known,
        rows,
        {name: said for name, said in values.items() if len(set(said)) > 1},
        {name: said[0] for name, said in values.items() if len(set(said)) == 1},
        note,
    )


def _read(run: Path | Record | Compared) -> Compared:
    if isinstance(run, Compared):
        return run
    if isinstance(run, Record):
        return Compared(_called(run) or "Run", run)
    record = read_record(run)
    if record is None:
        raise StudioError(
            f"{run.name!r} has no {RECORD_NAME}: an older Pigment taught it, or it has not ended; "
            "choose another run"
        )
    return Compared(_called(record) or run.name, record, run)


def _called(record: Record) -> str:
    return str(record.run.get("name") or record.run.get("trigger") or "")


def _named(runs: Sequence[Compared]) -> tuple[Compared, ...]:
    """The runs, with a number behind a name that another one has."""
    out: list[Compared] = []
    for run in runs:
        name, number = run.name, 1
        while name in [one.name for one in out]:
            number += 1
            name = f"{run.name} {number}"
        out.append(Compared(name, run.record, run.folder))
    return tuple(out)


def _note(records: Sequence[Record]) -> str:
    """What can't be compared; empty where all learned the same from the same base."""
    for name, said in (("data_sha256", "other pictures or captions"), ("base_sha256", "another base")):
        known = {record.run.get(name) for record in records}
        if len(known) > 1:
            return f"They learned from {said}: errors, likeness and structure can't be compared."
    return ""


def _row(measure: Measure, records: Sequence[Record], comparable: bool) -> Row | None:
    """A row; None where no run has that figure."""
    values = tuple(measure.value(record) for record in records)
    known = [value for value in values if value is not None]
    if not known:
        return None
    told = measure.better and (comparable or not measure.same_pictures)
    if not told or len(known) < 2 or min(known) == max(known):
        return Row(measure, values, (False,) * len(values))
    best = min(known) if measure.better == "low" else max(known)
    return Row(measure, values, tuple(value == best for value in values))


def _settings(record: Record) -> dict[Setting, str]:
    return {
        (section, name): words(value)
        for section, values in record.config.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def as_text(found: Comparison) -> str:
    """The comparison as tables for a terminal; the best of a row has a star."""
    heads = ["", *(run.name[:24] for run in found.runs)]
    figures = [
        [row.measure.title, *(f"{said} *" if best else said
                              for said, best in zip(row.words(), row.best, strict=True))]
        for row in found.rows
    ]  # fmt: skip
    settings = [[title(name), *(one[:24] for one in said)] for name, said in found.differing.items()]
    parts = [_aligned([heads, *figures])]
    if settings:
        parts.append(_aligned([["Settings that differ", *[""] * len(found.runs)], *settings]))
    return "\n\n".join([*parts, found.note] if found.note else parts)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
