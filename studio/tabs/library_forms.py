"""What the library's dialog asks about an adapter, one row each: its fields, and what is done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError, StudioError
from pipelines.formats import FORMATS
from studio import covers, exporting
from studio.amending import OFFERED, amend, offered, stated
from studio.context import Context
from studio.entries import MAX_TAGS, NAME_LENGTH, NOTES_LENGTH, Entry
from studio.tabs import rework_forms
from studio.tabs.asking import LEFT_OUT, Field, Form, Values, dtype_field, field, rank_field, validated
from studio.tabs.shelf import method_label
from studio.uploads import let_go

COVERS_SHOWN = 40
RANK = exporting.DEFAULT_RANK


def _export(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entry = context.library.get(ids[0])
    by = {tool: exporting.suited(tool, entry) for tool in exporting.TOOLS}
    tools = [[label, tool] for tool, (label, _) in exporting.TOOLS.items() if by[tool]]
    lossy = [form for form in FORMATS if exporting.becomes_lora(form, entry)]
    halved = {form: half for form in FORMATS if (half := exporting.halves(form, entry))}
    optional = [form for form, row in FORMATS.items() if exporting.holds(form, entry) and row.holds("lora")]
    optional = [] if entry.info.get("tokens") or not entry.info.get("modules") else optional
    plain = exporting.methods_of(entry) == ["lora"]
    method = method_label(entry.method)
    choices = {
        tool: [[FORMATS[form].label + _aside(form, lossy, halved), form] for form in forms]
        for tool, forms in by.items()
    }
    first = next((tool for _, tool in tools), "")
    small = context.base == "pocket"
    lora = {"format": optional, "as_lora": [True]}
    fields: list[Field] = [
        field("select", "tool", "For", value=first, choices=tools),
        field(
            "select", "format", "Form", value=(by.get(first) or [""])[0],
            by={"name": "tool", "choices": choices},
        ),
        field(
            "note", "lossy", f"{method} doesn't fit into this form as it is: its ΔW is cut to plain LoRA of "
            "this rank, and the report says how near that comes.", when=[{"format": lossy}],
        ),
        field(
            "check", "as_lora", "Another rank" if plain else "As plain LoRA", when=[{"format": optional}],
            hint="Smaller, by SVD; the report says what is lost." if plain
            else "Read by every tool; the report says how near it comes.",
        ),
        rank_field(min(entry.rank or RANK, RANK), when=[{"format": lossy}, lora]),
        {**LEFT_OUT, "when": [{"format": lossy}, {"format": [] if plain else optional, "as_lora": [True]}]},
        dtype_field(),
        field(
            "check", "picture", "Compare a picture too", value=small,
            hint="The file is loaded by diffusers and one picture compared with Pigment's own."
            + ("" if small else " A large base takes a while."),
        ),
    ]  # fmt: skip
    intro = "The file is written, read back by other means and compared before you get it."
    return {"title": f"Export {entry.name}", "intro": intro, "fields": fields, "submit": "Check and export"}


def _aside(form: str, lossy: Sequence[str], halved: Mapping[str, str]) -> str:
    return ", as plain LoRA" if form in lossy else f", its {halved[form]} alone" if form in halved else ""


def _start_export(context: Context, ids: Sequence[str], values: Values) -> str:
    asked = {name: value for name, value in values.items() if name != "tool"}
    request = validated(exporting.ExportRequest, adapter=ids[0], **asked)
    if not request.as_lora and not exporting.becomes_lora(request.format, context.library.get(ids[0])):
        request = request.model_copy(update={"rank": None, "allow_left_out": False})
    exporting.start(context, request)
    return "It is being written and checked"


def _edit(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entry = context.library.get(ids[0])
    said = offered(stated(entry))
    fields: list[Field] = [
        field("text", "name", "Name", value=entry.name, max=NAME_LENGTH, wide=True),
        field(
            "text", "tags", "Tags", value=", ".join(entry.tags), max=800, wide=True,
            hint=f"Yours, with commas between; at most {MAX_TAGS}", placeholder="style, finished",
        ),
        field("area", "own_notes", "Your notes", value=entry.notes, max=NOTES_LENGTH, wide=True),
        field("note", "file", "In the file itself, for other tools too:"),
    ]  # fmt: skip
    for name, (label, hint) in OFFERED.items():
        kind = "area" if name in ("description", "notes") else "text"
        wide = kind == "area" or name == "triggers"
        fields.append(field(kind, name, label, value=said[name], hint=hint, max=2000, wide=wide))
    return {"title": f"Edit {entry.name}", "fields": fields, "submit": "Save"}


def _save_edit(context: Context, ids: Sequence[str], values: Values) -> str:
    library, entry = context.library, context.library.get(ids[0])
    before = offered(stated(entry))
    texts = {name: " ".join(str(values.get(name, "")).split()) for name in ("triggers", "author", "license")}
    texts |= {name: str(values.get(name, "")).strip() for name in ("description", "notes")}
    changes = {name: text or None for name, text in texts.items() if text != before[name]}
    library.rename(entry.id, str(values.get("name", "")))
    library.tag(entry.id, str(values.get("tags", "")).split(","))
    library.note(entry.id, str(values.get("own_notes", "")))
    amend(library, entry.id, changes)
    return "Saved"


def _tag(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entries = [context.library.get(one) for one in ids]
    common = [tag for tag in entries[0].tags if all(tag in entry.tags for entry in entries)]
    had = f"All have: {', '.join(common)}" if common else ""
    fields: list[Field] = [
        field(
            "text", "add", "Tags to add", max=800, wide=True, hint="With commas between",
            placeholder="style, finished",
        ),
        field("text", "remove", "Tags to take away", max=800, wide=True, hint=had),
    ]  # fmt: skip
    return {"title": f"Tag {len(ids)} adapters", "fields": fields, "submit": "Save"}


def _save_tags(context: Context, ids: Sequence[str], values: Values) -> str:
    more, fewer = (
        [one.strip() for one in str(values.get(name, "")).split(",")] for name in ("add", "remove")
    )
    away = {tag.casefold() for tag in fewer}
    for one in ids:
        tags = [*context.library.get(one).tags, *more]
        context.library.tag(one, [tag for tag in tags if tag.casefold() not in away])
    return f"{len(ids)} adapters are tagged"


def _cover(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entry = context.library.get(ids[0])
    found = _drawn(context, entry)
    hint = "" if found else "None yet: what you draw in Mix is offered here."
    row = field("pictures", "picture", "Pictures drawn here", choices=found, hint=hint)
    return {"title": f"Cover of {entry.name}", "fields": [row], "submit": "Use it"}


def _drawn(context: Context, entry: Entry) -> list[dict[str, str]]:
    """Pictures to choose from: those of its training, those drawn with it, then the others; newest first."""
    found = []
    if entry.job:
        folder = context.workspace.folder("runs", entry.job, "previews")
        names = sorted((path.name for path in folder.glob("*.png")), reverse=True)[:8]
        found = [(f"preview/{entry.job}/{name}", f"from its training, {name}") for name in names]
    with context.workspace.read() as db:
        rows = db.execute(
            "SELECT id, seed, width FROM images WHERE trashed IS NULL AND kind = 'picture' "
            "ORDER BY instr(settings, ?) = 0, created DESC LIMIT ?",
            (entry.sha256, COVERS_SHOWN),
        ).fetchall()
    found += [(f"image/{row['id']}", f"seed {row['seed']}") for row in rows]
    return [{"value": address, "label": label, "src": f"files/{address}"} for address, label in found]


def _set_cover(context: Context, ids: Sequence[str], values: Values) -> str:
    chosen = str(values.get("picture", ""))
    if not chosen:
        raise PictureError("no picture is chosen; take one, or add one of yours")
    source: str | Path = chosen
    if chosen.startswith("upload:"):
        source = uploaded(context, chosen.removeprefix("upload:"))
    covers.set_cover(context.library, ids[0], source)
    let_go(context.workspace, [source])
    return "The cover is set"


def uploaded(context: Context, path: str) -> Path:
    """A file that was dropped on the page. Raises: StudioError for any other path."""
    found = context.workspace.uploaded(path)
    if found is None:
        raise StudioError("what was dropped is gone; drop it again")
    return found


def _empty(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    return {"title": "Empty the trash", "submit": "Remove for good", "danger": True, "fields": [],
            "intro": "The files of the adapters in the trash are removed. This can't be undone."}  # fmt: skip


def _emptied(context: Context, ids: Sequence[str], values: Values) -> str:
    return f"{context.library.empty_trash()} removed for good"


FORMS: dict[str, Form] = {
    "export": Form(fields=_export, submit=_start_export),
    "edit": Form(fields=_edit, submit=_save_edit),
    "tag": Form(fields=_tag, submit=_save_tags),
    "cover": Form(fields=_cover, submit=_set_cover),
    **rework_forms.FORMS,
    "empty-trash": Form(fields=_empty, submit=_emptied),
}
