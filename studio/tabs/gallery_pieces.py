"""The gallery as pieces of HTML: a page of it, one picture with its settings, two compared, covers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pipelines.errors import PictureError, StudioError
from studio import markup, telling
from studio.context import Context
from studio.entries import Entry
from studio.gallery import Drawn, Found, Gallery
from studio.markup import text
from studio.parts import values
from studio.restoring import SOURCES, Taken
from studio.searching import Query

if TYPE_CHECKING:
    from pipelines.parameters import Restored

COVERS = 8  # adapters offered
LARGER = 4  # times a small picture is shown larger at most


def pieces(context: Context, key: str) -> dict[str, str]:
    """A page of the gallery. key: JSON {"text", "kind", "page", "trash"}."""
    wanted = values(key)
    gallery, trash, page = Gallery(context.workspace), bool(wanted.get("trash")), wanted.get("page")
    found = gallery.search(
        str(wanted.get("text") or "")[:200],
        page if isinstance(page, int) else 0,
        kind=str(wanted.get("kind") or "")[:20],
        trashed=trash,
    )
    narrowed = bool(wanted.get("text") or wanted.get("kind"))
    return {
        "count": _count(found, narrowed, trash),
        "grid": _grid(found, narrowed, trash),
        "pages": _pages(found),
        "trashed": str(found.total if trash else gallery.search(trashed=True, size=1).total),
    }


def _count(found: Found, narrowed: bool, trash: bool) -> str:
    if not found.total:
        return ""
    noun = "picture" if found.total == 1 else "pictures"
    where = " in the trash" if trash else " found" if narrowed else ""
    return f"{found.total:,} {noun}{where}"


def _grid(found: Found, narrowed: bool, trash: bool) -> str:
    if not found.total and trash:
        return markup.empty("The trash is empty", "Deleted pictures wait here until you empty it.")
    if not found.total and narrowed:
        return markup.empty(
            "Nothing found", "Search for words of the prompt, an adapter, a sampler or a seed."
        )
    if not found.total:
        return markup.empty(
            "No pictures yet", "What you draw in Mix gathers here. Or drop any PNG to see how it was made."
        )
    return f'<div class="pg-wall" role="list">{"".join(_tile(one) for one in found.pictures)}</div>'


def _shape(drawn: Drawn) -> float:
    """Width over height, as far as a tile follows it."""
    width = drawn.width or drawn.generation.get("width") or 1
    height = drawn.height or drawn.generation.get("height") or 1
    return min(2.4, max(0.6, float(width) / float(height)))


def _tile(drawn: Drawn) -> str:
    small, large = (markup.url("image", drawn.id, str(size)) for size in (320, 640))
    about = f"{drawn.prompt[:300] or 'without a prompt'}, seed {drawn.seed}"
    grid = '<span class="pg-mark">grid</span>' if drawn.kind == "grid" else ""
    image = f'<img src="{small}" srcset="{small} 1x, {large} 2x" alt="" loading="lazy" decoding="async">'
    return (
        f'<div class="pg-tile" role="listitem" data-picture="{text(drawn.id)}" '
        f'style="--shape:{_shape(drawn):.3f}">'
        f'<button type="button" class="open" data-act="open" data-id="{text(drawn.id)}" '
        f'title="{text(drawn.prompt[:300])}" aria-label="{text(about)}">{image}{grid}</button>'
        f'<button type="button" class="pick" data-act="pick" data-id="{text(drawn.id)}" aria-pressed="false" '
        f'aria-label="Choose: {text(about)}"></button></div>'
    )


def _pages(found: Found) -> str:
    if found.pages < 2:
        return ""
    ways = ((-1, "Newer", found.page > 0), (1, "Older", found.page < found.pages - 1))
    newer, older = (
        f'<button type="button" class="pg-btn small" data-act="page" data-id="{found.page + step}"'
        f"{'' if there else ' disabled'}>{label}</button>"
        for step, label, there in ways
    )
    return (
        f'<nav class="pg-pages" aria-label="Pages of the gallery">{newer}'
        f"<span>Page {found.page + 1} of {found.pages}</span>{older}</nav>"
    )


def picture(context: Context, key: str) -> dict[str, str]:
    """One picture, large, with all its settings. key: JSON {"id", "text", "kind"}: the search it is in."""
    wanted = values(key)
    gallery = Gallery(context.workspace)
    drawn = gallery.get(str(wanted.get("id") or ""))
    newer, older = (None, None)
    if drawn.trashed is None:
        newer, older = gallery.beside(
            drawn.id, str(wanted.get("text") or "")[:200], str(wanted.get("kind") or "")[:20]
        )
    return {
        "picture": _large(drawn),
        "about": _about(drawn),
        "beside": f'<i data-newer="{text(newer or "")}" data-older="{text(older or "")}"></i>',
    }


def _large(drawn: Drawn) -> str:
    address = markup.url("image", drawn.id)
    size = ""
    if drawn.width and drawn.height:
        size = f' style="max-width:{drawn.width * LARGER}px;max-height:{drawn.height * LARGER}px"'
    return (
        f'<a href="{address}" target="_blank" title="Open it alone in a new tab">'
        f'<img src="{address}" alt="{text(drawn.prompt[:300])}"{size}></a>'
    )


def _about(drawn: Drawn) -> str:
    if drawn.trashed is not None:
        actions = markup.button("Bring it back", "restore", drawn.id, style="main")
    else:
        save = markup.download("Save", markup.url("image", drawn.id), drawn.file_name)
        actions = "".join(
            (
                markup.button(
                    "Take into Mix", "mix", drawn.id, style="main", title="Take its settings into Mix"
                ),
                markup.button("Draw over", "over", drawn.id, title="Use it as the picture to draw over"),
                save,
                markup.button("Compare", "pick", drawn.id, title="Compare it with another picture"),
                markup.button("Delete", "trash", drawn.id, title="Move it to the trash"),
            )
        )
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(drawn.created))
    told = dict(drawn.generation)
    rows = {**telling.facts(told), **telling.base(drawn.settings), "Drawn": date}
    if drawn.kind == "grid":
        rows = {"Grid": telling.varied(drawn.settings), **rows}
    return (
        f'{words(told)}<div class="pg-row">{actions}</div>{listed(rows)}{_notes(drawn.settings.get("notes"))}'
    )


def words(told: telling.Told) -> str:
    """The prompts, and the adapters with their weights."""
    prompt = str(told.get("prompt") or "")
    avoided = str(told.get("negative_prompt") or "")
    chips = "".join(
        f'<li class="pg-chip">{text(name)} <b>{weight:g}</b></li>' for name, weight in telling.adapters(told)
    )
    return (
        f'<p class="pg-prompt" tabindex="0">{text(prompt) if prompt else "<i>no prompt</i>"}</p>'
        + (f'<p class="pg-prompt without"><b>Not:</b> {text(avoided)}</p>' if avoided else "")
        + (f'<ul class="pg-used" aria-label="Adapters">{chips}</ul>' if chips else "")
    )


def listed(rows: Mapping[str, str]) -> str:
    """Names and values under each other."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows.items())
    return f'<dl class="pg-facts">{lines}</dl>' if lines else ""


def _notes(notes: object) -> str:
    lines = [str(note) for note in notes][:12] if isinstance(notes, (list, tuple)) else []
    return "".join(f'<p class="pg-note">{text(line)}</p>' for line in lines)


def pair(context: Context, key: str) -> dict[str, str]:
    """Two pictures, one over the other. key: JSON {"ids": [before, after]}."""
    ids = values(key).get("ids")
    if not isinstance(ids, list) or len(ids) != 2:
        raise PictureError("two pictures are compared; choose two")
    before, after = (Gallery(context.workspace).get(str(one)) for one in ids)
    sides = _sides(before), _sides(after)
    names = [name for name in {**sides[0], **sides[1]} if sides[0].get(name, "") != sides[1].get(name, "")]
    left, right = (
        f"{names[0]}: {side.get(names[0]) or 'none'}"[:60] if names else word
        for side, word in zip(sides, ("left", "right"), strict=True)
    )
    shown = (
        f'<pg-compare before="{markup.url("image", before.id)}" after="{markup.url("image", after.id)}" '
        f'before-label="{text(left)}" after-label="{text(right)}" '
        f'alt="{text(after.prompt[:300])}"></pg-compare>'
    )
    return {"picture": shown, "about": _differences(names, sides)}


def _sides(drawn: Drawn) -> dict[str, str]:
    """Everything that two pictures can differ in, what tells most first."""
    told = drawn.generation
    rest = telling.facts(told)
    return {
        "Seed": rest.pop("Seed", str(drawn.seed)),
        "Adapters": ", ".join(f"{name} {weight:g}" for name, weight in telling.adapters(told)),
        "Prompt": drawn.prompt,
        "Negative prompt": str(told.get("negative_prompt") or ""),
        **rest,
        **telling.base(drawn.settings),
    }


def _differences(names: list[str], sides: tuple[dict[str, str], ...]) -> str:
    if not names:
        return '<p class="pg-sub">Their settings are the same.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(f"<td>{text(side.get(name) or '–')}</td>" for side in sides)
        + "</tr>"
        for name in names
    )
    head = '<tr><td></td><th scope="col">Left</th><th scope="col">Right</th></tr>'
    table = f'<table class="pg-differ"><caption>What differs</caption>{head}{rows}</table>'
    return f'<div class="pg-scroll" tabindex="0">{table}</div>'


def covers(context: Context, key: str) -> dict[str, str]:
    """Adapters that a picture could be the cover of: its own first. key: JSON {"id", "text"}."""
    wanted = values(key)
    drawn = Gallery(context.workspace).get(str(wanted.get("id") or ""))
    typed = str(wanted.get("text") or "")[:200]
    used = [] if typed else _used(context, drawn)
    others = context.library.search(Query(words=typed), COVERS).entries
    offered = {entry.id: entry for entry in (*used, *others)}
    if not offered:
        return {"covers": '<p class="pg-sub">No adapter is called so.</p>'}
    return {"covers": f'<div class="pg-row">{_buttons(list(offered.values())[:COVERS], drawn.id)}</div>'}


def _used(context: Context, drawn: Drawn) -> Iterable[Entry]:
    for use in drawn.generation.get("adapters") or ():
        sha256 = str(use.get("sha256") or "") if isinstance(use, Mapping) else ""
        with context.workspace.read() as db:
            row = db.execute(
                "SELECT id FROM adapters WHERE sha256 = ? AND trashed IS NULL", (sha256,)
            ).fetchone()
        try:
            found = None if row is None else context.library.get(row["id"])
        except StudioError:
            continue
        if found is not None:
            yield found


def _buttons(entries: list[Entry], image_id: str) -> str:
    return "".join(
        f'<button type="button" class="pg-btn small" data-act="cover" data-id="{text(image_id)}" '
        f'data-adapter="{text(entry.id)}">{text(entry.name)}</button>'
        for entry in entries
    )


def dropped(name: str, restored: Restored, found: Taken) -> str:
    """What a dropped file says of how it was made."""
    told = dict(restored.fields)
    told["adapters"] = told.get("adapters") or restored.adapters
    about = {**telling.facts(told), **({"Base": restored.base.name} if restored.base.name else {})}
    by = f'<p class="pg-sub">{text(name)}, made by {text(SOURCES[restored.source])}</p>'
    notes = "".join(f'<p class="pg-note">{text(line)}</p>' for line in found.notes)
    mix = markup.button("Take into Mix", "mix-file", "", style="main")
    return f'{by}{words(told)}<div class="pg-row">{mix}</div>{listed(about)}{notes}'
