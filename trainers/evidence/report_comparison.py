"""The page of a comparison, in the style of reports: pictures, figures, settings that differ, curves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from trainers.evidence import report_curves as curves
from trainers.evidence import report_parts as parts
from trainers.evidence.comparing import Compared, Comparison, step_of
from trainers.evidence.report import LIMIT, document
from trainers.evidence.report_charts import Chart, Line, changed, percent, span_of
from trainers.evidence.report_facts import Setting, title
from trainers.evidence.report_pictures import SIZES, Pictures, Size

ROWS = 3  # prompts of which strips are shown


def comparison_page(found: Comparison) -> str:
    """The whole page, with pictures as large as its limit allows."""
    page = ""
    for size in SIZES:
        page = _page(found, size)
        if len(page.encode()) <= LIMIT:
            break
    return page


def _page(found: Comparison, size: Size) -> str:
    pictures = [Pictures(run.folder, size) if run.folder else None for run in found.runs]
    names = " · ".join(run.name for run in found.runs)
    cards = "".join(
        _card(number, run, own) for number, (run, own) in enumerate(zip(found.runs, pictures, strict=True))
    )
    note = f'<p class="said note">{escape(found.note)}</p>' if found.note else ""
    body = [
        f'<header><h1>Compared</h1></header><div class="runs">{cards}</div>',
        parts.section("Figures", note + _figures(found)),
        parts.section("What differs", _differing(found) + _alike(found)),
        parts.section("As they learned", _strips(found.runs, pictures)),
        parts.section("Curves", _curves(found.runs)),
    ]
    return document(f"Compared: {names}", "".join(body))


def _card(number: int, run: Compared, pictures: Pictures | None) -> str:
    """A run: what it draws, its verdict and its step."""
    record = run.record
    shown = parts.hero(record, pictures, most=1) if pictures is not None else ""
    found = [finding for finding in record.verdict if finding.severity != "note"]
    said = found[0].title if found else "All well" if parts.judged(record) else ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    step = step_of(record)
    when = f"<small>step {step:,}</small>" if step is not None else ""
    return (
        f'<div class="run c{number}"><h3 title="{escape(run.name)}">{escape(run.name)}</h3>{shown}'
        f'<p class="said {"problem" if found else "well"}">{escape(said + more)}</p>{when}</div>'
    )


def _heads(runs: Sequence[Compared], first: str = "") -> str:
    cells = "".join(
        f'<th scope=col><span class="key c{number}" title="{escape(run.name)}">{escape(run.name)}</span></th>'
        for number, run in enumerate(runs)
    )
    return f"<thead><tr><th>{escape(first)}</th>{cells}</tr></thead>"


def _figures(found: Comparison) -> str:
    rows = []
    for row in found.rows:
        cells = "".join(
            f'<td class="best">{escape(said)}<small>best</small></td>' if best else f"<td>{escape(said)}</td>"
            for said, best in zip(row.words(), row.best, strict=True)
        )
        rows.append(f"<tr><th scope=row>{escape(row.measure.title)}</th>{cells}</tr>")
    hint = '<p class="hint after">Errors are changes from the base; lower is better.</p>'
    return _wide(f"<table class=compared>{_heads(found.runs)}<tbody>{''.join(rows)}</tbody></table>") + hint


def _differing(found: Comparison) -> str:
    if not found.differing:
        return "<p>No setting differs.</p>" if found.alike else ""
    rows = "".join(_setting(name, values) for name, values in found.differing.items())
    return _wide(f"<table class=compared>{_heads(found.runs)}<tbody>{rows}</tbody></table>")


def _setting(name: Setting, values: Sequence[str]) -> str:
    cells = "".join(f"<td><mark>{escape(value)}</mark></td>" for value in values)
    return f'<tr><th scope=row title="{escape(".".join(name))}">{escape(title(name))}</th>{cells}</tr>'


def _alike(found: Comparison) -> str:
    if not found.alike:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(title(name))}</th><td>{escape(value)}</td></tr>"
        for name, value in found.alike.items()
    )
    return (
        f"<details><summary>{len(found.alike)} settings are the same</summary>"
        f'<table class="facts"><tbody>{rows}</tbody></table></details>'
    )


def _wide(table: str) -> str:
    return f'<div class="wider" tabindex="0" role="group" aria-label="Table">{table}</div>'


def _strips(runs: Sequence[Compared], pictures: Sequence[Pictures | None]) -> str:
    """Of each prompt the strips of all runs below each other."""
    made = []
    for row in range(ROWS):
        strips = []
        for number, (run, own) in enumerate(zip(runs, pictures, strict=True)):
            prompt, strip = parts.strip(run.record, own, row) if own is not None else ("", "")
            if strip:
                label = f'<p class="prompt"><span class="key c{number}">{escape(run.name)}</span> '
                strips.append(f"{label}<small>{escape(prompt)}</small></p>{strip}")
        made += strips
    return "".join(made)


def _curves(runs: Sequence[Compared]) -> str:
    """Each measure of all runs in one chart; then each run's errors, all in one scale."""
    charts = [
        Chart(f"Error: {label}", [Line(run.name, changed(run.record.losses(name)), number)
                                  for number, run in enumerate(runs)],
              "change from the base; lower is better", percent, zero=True)
        for name, label in curves.SET_NAMES.items()
    ]  # fmt: skip
    for heading, hint, names in curves.SEEN:
        name = next(iter(names))
        lines = [
            Line(run.name, curves.by_step(run.record.previews, name), number)
            for number, run in enumerate(runs)
        ]
        charts.append(Chart(heading, lines, hint, "{:.2f}".format, least=0.1))
    made = "".join(chart.html() for chart in charts)
    told = [curves.loss_lines(run.record) for run in runs]
    span = span_of([line for lines, relative in told if relative for line in lines], zero=True)
    own = "".join(
        Chart(run.name, lines, "", percent, _recommended(run), span, True).html()
        for run, (lines, relative) in zip(runs, told, strict=True)
        if relative
    )
    beside = f'<h3 class="next">Each run, in one scale</h3><div class="charts">{own}</div>' if own else ""
    return f'<div class="charts">{made}</div>{beside}' if made else beside


def _recommended(run: Compared) -> int | None:
    return run.record.choice.step if run.record.choice is not None else None
