"""The curves of a report: errors by set and by noise, likeness, drift, and the training itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainers.evidence.record import Record, Seen
from trainers.evidence.report_charts import Chart, Line, changed, percent, running_mean

SET_NAMES = {
    "held_out": "unseen pictures", "teaching": "taught pictures", "altered": "taught, mirrored",
    "plain": "taught, without the trigger", "class": "its class and other things",
}  # fmt: skip
"""`SETS` in a few words, in the order of importance."""
SET_COLOURS = dict(zip(("teaching", "held_out", "class", "plain", "altered"), range(5), strict=True))
BAND_NAMES = ("little noise: details", "some noise", "much noise", "nearly all noise: layout")


def loss_lines(record: Record) -> tuple[list[Line], bool]:
    """Losses by set: as changes in percent where step 0 was measured, and whether they are."""
    known = {name: record.losses(name) for name in SET_NAMES}
    relative = any(changed(points) for points in known.values())
    lines = [
        Line(SET_NAMES[name], changed(points) if relative else points, SET_COLOURS[name])
        for name, points in known.items()
    ]
    return [line for line in lines if line.points], relative


def curves(record: Record) -> str:
    """All curves: losses by set, by noise, likeness, prompt, drift."""
    taken = record.choice.step if record.choice else None
    lines, relative = loss_lines(record)
    charts = [
        Chart(
            "Error", lines, "change from the base; lower is better" if relative else "lower is better",
            percent if relative else "{:.4f}".format, taken, zero=relative, wide=True,
        ),
        _bands(record, taken),
        *(
            Chart(title, seen_lines(record.previews, names), hint, "{:.2f}".format, taken, least=0.1)
            for title, hint, names in SEEN
        ),
        Chart("Drift", [Line("prediction", {one.step: one.drift for one in record.measured
                                            if one.drift is not None}, 2)],
              "how far predictions of other things move; lower is better", "{:.2g}".format, taken, zero=True),
    ]  # fmt: skip
    made = "".join(chart.html() for chart in charts)
    return f'<div class="charts">{made}</div>{_training(record, taken)}' if made else _training(record, taken)


SEEN: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Likeness", "higher is more alike",
     {"image_similarity": "likeness", "structure_similarity": "structure"}),
    ("Keeps to the prompt", "higher is better", {"prompt_similarity": "prompt"}),
    ("Variety", "between seeds; higher is more", {"diversity": "variety"}),
    ("Other things", "how far what is drawn of them moves; lower is better", {"drift": "drift"}),
)  # fmt: skip
"""Charts of what previews are like: title, what is good, fields of `Seen` with their names."""


def seen_lines(seen: Sequence[Seen], names: Mapping[str, str]) -> list[Line]:
    """A line for each field of `Seen` that was measured."""
    return [Line(label, by_step(seen, name), number) for number, (name, label) in enumerate(names.items())]


def by_step(seen: Sequence[Seen], name: str) -> dict[int, float]:
    """A figure of pictures by step, where it is known."""
    return {one.step: getattr(one, name) for one in seen if getattr(one, name) is not None}


def _bands(record: Record, taken: int | None) -> Chart:
    """Errors by noise level of the set that tells the most."""
    name = next((one for one in ("held_out", "altered", "teaching") if record.losses(one)), "")
    losses = {one.step: one.losses[name].bands for one in record.measured if name in one.losses}
    count = min((len(bands) for bands in losses.values()), default=0)
    lines = []
    for band in range(count):
        points = {step: bands[band] for step, bands in losses.items()}
        label = BAND_NAMES[band] if count == len(BAND_NAMES) else f"part {band + 1} of {count}"
        lines.append(Line(label, changed(points), band))
    hint = f"{SET_NAMES.get(name, name)}, change from the base"
    return Chart("Error by noise", lines, hint, percent, taken, zero=True)


def _training(record: Record, taken: int | None) -> str:
    """The curve of the training itself, which says little; folded."""
    loss, norm, rate = ({row[0]: row[place] for row in record.curve} for place in (1, 2, 3))
    charts = (
        Chart("Training loss", [Line("each step", loss, 0, faint=True),
                                Line("mean", running_mean(loss), 0, dots=False)], "", "{:.3g}".format, taken),
        Chart("Gradient", [Line("each step", norm, 2, faint=True),
                           Line("mean", running_mean(norm), 2, dots=False)], "", "{:.2g}".format, taken),
        Chart("Learning rate", [Line("rate", rate, 4, dots=False)], "", "{:.1e}".format, taken, zero=True),
    )  # fmt: skip
    made = "".join(chart.html() for chart in charts)
    if not made:
        return ""
    return f'<details><summary>The training itself</summary><div class="charts">{made}</div></details>'
