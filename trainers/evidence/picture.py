"""All that is known of a run as one picture, 1200 pixels wide: what to take, why, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trainers.evidence.picture_charts import charts, draw_anatomy, draw_charts
from trainers.evidence.ranks import rank_advice
from trainers.evidence.record import Pair, Record, Seen
from trainers.evidence.report_pictures import below
from trainers.evidence.rules import WELL
from trainers.evidence.sheet import (
    BAD,
    CHOSEN,
    FIGURE,
    FILL,
    GOOD,
    HEAD,
    INK,
    NOTE,
    PLAIN,
    SMALL,
    SOFT,
    TITLE,
    Sheet,
    below_each_other,
    drawn,
    fitted,
    line_height,
    snapped,
    wrapped,
)
from trainers.run_folder import CONFIG_NAME

WIDTH, MARGIN, GAP = 1200, 32, 30
INNER = WIDTH - 2 * MARGIN
TILES, STRIP, DRAWN, PAIRS = 8, 8, 8, 4
"""Columns at most: of figures, of previews by step, of drawn pictures, and of pairs."""


def evidence_picture(folder: Path, record: Record) -> Image.Image:
    """Draw what is known of a run, whatever of it is missing.

    folder: the run's, below which the record's pictures lie; those that aren't there are left out.
    """
    parts = [_heading(record), _figures(record)]
    over_steps = charts(record)
    if over_steps:
        step = record.choice.step if record.choice else None
        parts.append(draw_charts(over_steps, INNER, step))
    parts += [_previews(folder, record), _drawn(folder, record), _pairs(folder, record)]
    if record.anatomy is not None:
        advice = rank_advice(record.anatomy)
        parts.append(draw_anatomy(record.anatomy, advice.words if advice else "", INNER))
    return below_each_other([part for part in parts if part is not None], WIDTH, MARGIN, GAP)


def _heading(record: Record) -> Image.Image:
    """What it is, which step to take, and the verdict."""
    sheet = Sheet(INNER)
    run = record.run
    sheet.write(str(run.get("name") or "Evidence"), TITLE, most=2)
    sheet.write(" · ".join(_about(record)), PLAIN, SOFT, most=2)
    sheet.room(12)
    if record.choice is not None:
        _said(sheet, _taken(record), record.choice.reason, CHOSEN)
    if record.onset is not None:
        _said(sheet, f"The numbers broke at step {record.onset.step}", record.onset.words, BAD)
    for finding in record.verdict:
        ink = BAD if finding.severity == "problem" else NOTE
        _said(sheet, finding.title, f"{finding.words} {finding.advice}", ink)
    if not record.verdict and (record.measured or record.drawn):
        _said(sheet, "All well", WELL, GOOD)
    return sheet.done()


def _about(record: Record) -> list[str]:
    """Who and what, in a few words each."""
    run = record.run
    found = [str(run[name]) for name in ("kind", "trigger", "base") if run.get(name)]
    if run.get("pictures"):
        held = f", {run['held_out']} held out" if run.get("held_out") else ""
        found.append(f"{run['pictures']} picture" + ("s" if run["pictures"] != 1 else "") + held)
    if run.get("steps"):
        found.append(f"{run['steps']} steps")
    return found


def _taken(record: Record) -> str:
    choice = record.choice
    assert choice is not None
    return f"Take step {choice.step}" + (f" of {choice.last}" if choice.step != choice.last else ", the last")


def _said(sheet: Sheet, title: str, words: str, ink: tuple[int, int, int]) -> None:
    """Write a title with a coloured bar before it, and words below it."""
    lines = wrapped(words, PLAIN, INNER - 24)
    top = sheet.room(line_height(HEAD) + len(lines) * line_height(PLAIN) + 10)
    bottom = sheet.y - 12
    sheet.draw.rectangle((0, top + 2, 5, bottom), fill=ink)
    sheet.label((20, top), title, HEAD, ink, width=INNER - 24)
    for index, line in enumerate(lines):
        sheet.label((20, top + line_height(HEAD) + index * line_height(PLAIN)), line, PLAIN, INK)


def _figures(record: Record) -> Image.Image | None:
    """The measures of what was drawn, and of the adapter, as tiles."""
    tiles = [*_of_pictures(record.drawn, record.base)]
    if record.memorisation is not None:
        flagged, seen = record.memorisation.flagged, len(record.memorisation.pairs)
        tiles.append(("Copies of pictures", str(flagged), f"of {seen} looked at", flagged > 0))
    if (found := record.anatomy) is not None and found.norm > 0:
        tiles.append(("Text encoder", f"{found.text_share:.0%}", "of all change", False))
        if found.rank_99 is not None:
            tiles.append(("Rank it uses", str(found.rank_99), f"of {found.rank}, for 99%", False))
    if not tiles:
        return None
    sheet, gap, height = Sheet(INNER), 12, 86
    columns = min(len(tiles), TILES)
    width = (INNER - gap * (TILES - 1)) // TILES
    for index, (label, value, below_it, bad) in enumerate(tiles):
        if index % columns == 0:
            top = sheet.room(height + (gap if index else 0)) + (gap if index else 0)
        x = index % columns * (width + gap)
        sheet.draw.rounded_rectangle((x, top, x + width - 1, top + height - 1), 8, fill=FILL)
        sheet.label((x + 10, top + 9), label, width=width - 16)
        sheet.label((x + 10, top + 29), value, FIGURE, BAD if bad else INK)
        sheet.label((x + 10, top + 62), below_it, width=width - 16)
    return sheet.done()


_MEASURES = {
    "image_similarity": "Like the pictures", "structure_similarity": "Structure", "prompt_similarity":
    "Fits the prompt", "diversity": "Variety by seed", "drift": "Others moved",
}  # fmt: skip
_ELSE = {"drift": "other prompts"}


def _of_pictures(seen: Seen | None, base: Seen | None) -> list[tuple[str, str, str, bool]]:
    found = []
    for name, label in _MEASURES.items():
        value, before = getattr(seen, name, None), getattr(base, name, None)
        if value is not None:
            against = f"{before:.2f} by the base" if before is not None else _ELSE.get(name, "")
            found.append((label, f"{value:.2f}", against, False))
    return found


def _evenly(found: Sequence[Seen], most: int, wanted: int | None) -> list[Seen]:
    """At most so many, evenly, the first, the last and the wanted step among them."""
    if len(found) <= most:
        return list(found)
    places = {round(index * (len(found) - 1) / (most - 1)) for index in range(most)}
    for at, one in enumerate(found):
        if one.step == wanted and at not in places:
            inner = places - {0, len(found) - 1}
            places.remove(min(inner, key=lambda place: abs(place - at)))
            places.add(at)
    return [found[place] for place in sorted(places)]


def _previews(folder: Path, record: Record) -> Image.Image | None:
    """A column for each step, its first two pictures below each other; the chosen step in a frame."""
    chosen = record.choice.step if record.choice else None
    some = _evenly([seen for seen in record.previews if seen.files], STRIP, chosen)
    gap = 10
    side = snapped((INNER - 8 - gap * (STRIP - 1)) // max(5, len(some)))
    columns = [(seen, [drawn(folder, name, side) for name in _two(seen)]) for seen in some]
    if not any(picture is not None for _, pictures in columns for picture in pictures):
        return None
    sheet = Sheet(INNER)
    sheet.head("Previews", ", ".join(dict.fromkeys(some[0].prompts[: len(_two(some[0]))])))
    rows = max(len(pictures) for _, pictures in columns)
    top = sheet.room(line_height(PLAIN) + 6 + rows * (side + gap))
    for index, (seen, pictures) in enumerate(columns):
        x, taken = 4 + index * (side + gap), seen.step == chosen
        words = f"step {seen.step}" if seen.step else "base"
        sheet.label((x, top), words, PLAIN, CHOSEN if taken else SOFT, width=side)
        for row, picture in enumerate(pictures):
            y = top + line_height(PLAIN) + 6 + row * (side + gap)
            if picture is not None:
                sheet.put(picture, (x, y), CHOSEN if taken else None)
    return sheet.done()


def _two(seen: Seen) -> tuple[str, ...]:
    """The first picture of each of the first two prompts."""
    if len(seen.prompts) != len(seen.files):
        return seen.files[:2]
    first = dict(zip(reversed(seen.prompts), reversed(seen.files), strict=True))
    return tuple(first[prompt] for prompt in dict.fromkeys(seen.prompts))[:2]


def _drawn(folder: Path, record: Record) -> Image.Image | None:
    """What the adapter draws, and the base with the same seeds below it."""
    seen, base = record.drawn, record.base
    if seen is None:
        return None
    count = min(len(seen.files), DRAWN)
    gap, left = 5, 70
    side = snapped((INNER - left - gap * (DRAWN - 1)) // max(5, count))
    rows = [("adapter", seen.files), ("base", base.files if base is not None else ())]
    shown = [(label, [drawn(folder, name, side) for name in files[:count]]) for label, files in rows]
    shown = [(label, found) for label, found in shown if any(found)]
    if not shown:
        return None
    sheet = Sheet(INNER)
    sheet.head("Drawn with it", f"at step {seen.step}" if seen.step else "")
    for label, pictures in shown:
        top = sheet.room(side + gap)
        sheet.label((0, top + side / 2), label, PLAIN, SOFT, width=left - 8, anchor="lm")
        for index, picture in enumerate(pictures):
            if picture is not None:
                sheet.put(picture, (left + index * (side + gap), top))
    if len(seen.prompts) == len(seen.files):
        _prompts(sheet, seen.prompts[:count], (left, side, gap))
    return sheet.done()


def _prompts(sheet: Sheet, prompts: Sequence[str], layout: tuple[int, int, int]) -> None:
    """Write each prompt below the pictures that were drawn with it."""
    left, side, gap = layout
    spans: list[tuple[int, int, str]] = []
    for index, prompt in enumerate(prompts):
        if spans and spans[-1][2] == prompt:
            spans[-1] = (spans[-1][0], index, prompt)
        else:
            spans.append((index, index, prompt))
    lines = [wrapped(text, SMALL, (end - at) * (side + gap) + side, 2) for at, end, text in spans]
    top = sheet.room(max(len(own) for own in lines) * line_height(SMALL))
    for (at, _, _), own in zip(spans, lines, strict=True):
        for row, line in enumerate(own):
            sheet.label((left + at * (side + gap), top + row * line_height(SMALL)), line)


def _pairs(folder: Path, record: Record) -> Image.Image | None:
    """Drawn pictures beside the picture that was learned from which they are nearest to."""
    found = record.memorisation
    if found is None or not found.pairs:
        return None
    pairs = sorted(found.pairs, key=lambda pair: not pair.flagged)[
        :PAIRS
    ]  # sorting keeps what is nearest first
    gap, between, side = 22, 8, 128
    shown = [
        (pair, drawn(folder, pair.picture, side), _learned(folder, pair.nearest, side)) for pair in pairs
    ]
    if not any(picture is not None for _, picture, _ in shown):
        return None
    sheet = Sheet(INNER)
    sheet.head("Nearest to what was learned from", "drawn, and the picture it is most like")
    top = sheet.room(side + 2 * line_height(SMALL) + 10)
    for index, (pair, ours, theirs) in enumerate(shown):
        x, frame = 4 + index * (2 * side + between + gap), BAD if pair.flagged else None
        for at, picture in ((x, ours), (x + side + between, theirs)):
            if picture is not None:
                sheet.put(picture, (at, top + 4), frame)
        _words(sheet, pair, (x, top + side + 10), 2 * side + between)
    return sheet.done()


def _words(sheet: Sheet, pair: Pair, place: tuple[int, int], width: int) -> None:
    """Write how near a pair is, and to what."""
    near = [] if pair.similarity is None else [f"alike {pair.similarity:.2f}"]
    near += [f"structure {pair.structure:.2f}"] + (["a copy"] if pair.flagged else [])
    sheet.label(place, " · ".join(near), ink=BAD if pair.flagged else INK, width=width)
    sheet.label((place[0], place[1] + line_height(SMALL)), Path(pair.nearest).name, width=width)


def _learned(folder: Path, name: str, side: int) -> Image.Image | None:
    """A picture that was learned from: where a copy was kept, or where the run had it."""
    places = [folder, folder / "evidence"]
    try:
        said = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        places.append(Path(said["data"]["instance_images"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    path = next((one for place in places if (one := below(place, name)) is not None), None)
    return fitted(path, side)
