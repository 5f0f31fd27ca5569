"""What the library's dialog asks of a new adapter made out of others: resized, converted, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.formats import FORMATS
from pipelines.merging import MERGES
from studio import exporting, reworking
from studio.context import Context
from studio.tabs.asking import (
    LEFT_OUT,
    Field,
    Form,
    Values,
    dtype_field,
    field,
    name_field,
    rank_field,
    validated,
)


def _resize(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entry = context.library.get(ids[0])
    by = [["Rank", "rank"], ["What is kept of ΔW", "energy"], ["Error that is allowed", "error"]]
    now = f"It has {entry.rank} now; ranks never grow." if entry.rank else "It has none now."
    fields: list[Field] = [
        field("select", "by", "Choose by", value="rank", choices=by),
        rank_field(max(1, (entry.rank or 16) // 2), when=[{"by": ["rank"]}], hint=now),
        field(
            "number", "energy", "Share of ΔW's energy", min=0.01, max=1, step=0.01, value=0.95,
            when=[{"by": ["energy"]}], hint="0.95 keeps 95%; each layer gets what it needs.",
        ),
        field(
            "number", "error", "Relative error", min=0, max=0.99, step=0.01, value=0.1,
            when=[{"by": ["error"]}], hint="0.1 lets ΔW be 10% off; each layer gets what it needs.",
        ),
        dtype_field(),
        name_field(),
    ]  # fmt: skip
    if exporting.methods_of(entry) != ["lora"]:
        fields.insert(-1, LEFT_OUT)
    intro = "A new adapter: plain LoRA with fewer ranks, by SVD. The old one stays."
    return {"title": f"Resize {entry.name}", "intro": intro, "fields": fields, "submit": "Resize"}


def _start_resize(context: Context, ids: Sequence[str], values: Values) -> str:
    asked = {name: value for name, value in values.items() if name != "by"}
    reworking.start(context, "resize", validated(reworking.ResizeRequest, adapter=ids[0], **asked))
    return "It is being resized"


def _convert(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entry = context.library.get(ids[0])
    forms = [[f"{row.label}: {row.readers}", form] for form, row in FORMATS.items()
             if row.kind == "file" and exporting.holds(form, entry)]  # fmt: skip
    now = str(entry.info.get("format", ""))
    value = now if any(form == now for _, form in forms) else (forms or [["", ""]])[0][1]
    hint = f"It is {now}, {entry.info.get('dtype', '')} now."
    fields: list[Field] = [
        field("select", "format", "Form", value=value, choices=forms, wide=True, hint=hint),
        dtype_field(),
        name_field(),
    ]
    intro = "A new adapter with the same ΔW in another form or precision. The old one stays."
    return {"title": f"Convert {entry.name}", "intro": intro, "fields": fields, "submit": "Convert"}


def _start_convert(context: Context, ids: Sequence[str], values: Values) -> str:
    reworking.start(context, "convert", validated(reworking.ConvertRequest, adapter=ids[0], **values))
    return "It is being converted"


def _merge(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    entries = [context.library.get(one) for one in ids]
    methods = [[f"{row.label}", row.id] for row in MERGES.values()]
    taken = reworking.merge_parameters()
    fields: list[Field] = [
        field("number", f"weight:{entry.id}", entry.name, min=-2, max=3, step=0.05, value=1)
        for entry in entries
    ]
    fields.append(field("select", "method", "How", value="cat", choices=methods, wide=True))
    fields += [
        field("note", f"about:{row.id}", row.variant, when=[{"method": [row.id]}]) for row in MERGES.values()
    ]
    fields += _parameters(taken)
    if any(exporting.methods_of(entry) != ["lora"] for entry in entries):
        fields.append(LEFT_OUT)
    fields += [dtype_field(), name_field()]
    intro = "One new adapter of all of them, at these weights. They stay."
    return {"title": f"Merge {len(ids)} adapters", "fields": fields, "submit": "Merge", "intro": intro}


def _parameters(taken: Mapping[str, Sequence[str]]) -> list[Field]:
    """A row for each parameter that some merge takes, shown where the chosen one takes it."""
    known = {parameter.name: parameter for row in MERGES.values() for parameter in row.parameters}
    return [
        field(
            "select" if one.kind == "choice" else "number", name, one.label, hint=one.help, min=one.low,
            max=one.high, value=one.default, step=1 if one.kind == "int" else "any",
            choices=[[choice, choice] for choice in one.choices],
            when=[{"method": [method for method, names in taken.items() if name in names]}],
        )
        for name, one in known.items()
    ]  # fmt: skip


def _start_merge(context: Context, ids: Sequence[str], values: Values) -> str:
    parts = [validated(reworking.Part, id=one, weight=values.get(f"weight:{one}", 1)) for one in ids]
    asked = {name: value for name, value in values.items() if ":" not in name}
    reworking.start(context, "merge", validated(reworking.MergeRequest, parts=tuple(parts), **asked))
    return "They are being merged"


FORMS: dict[str, Form] = {
    "resize": Form(fields=_resize, submit=_start_resize),
    "convert": Form(fields=_convert, submit=_start_convert),
    "merge": Form(fields=_merge, submit=_start_merge),
}
