"""The bases of the workspace: which there are, which one draws and teaches, what it takes of memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pipelines.bases.hub_local import hub_ref
from pipelines.errors import BaseError, StudioError
from studio import markup
from studio.bases import POCKET, BaseEntry, Bases, hub_id, local_ref
from studio.context import Context
from studio.markup import text
from studio.places import check_ref
from studio.tabs.asking import Field, Form, Values, field
from studio.tabs.shelf import family_label, jobs_here, working


def pieces(context: Context, key: str) -> dict[str, str]:
    """The part "bases"; its key says nothing."""
    bases = Bases(context.workspace)
    cards = [_pocket(context), *(_card(context, entry) for entry in bases.entries())]
    add = '<button type="button" class="pg-btn" id="add-base" data-act="add-base">Add a base…</button>'
    intro = (
        '<p class="pg-hint">Pictures are drawn, and adapters taught, with one of these. The files stay where '
        "they are.</p>"
    )
    work = "".join(working(job) for job in jobs_here(context, ("add_base",)))
    return {
        "head": f'<div class="lib-basehead">{intro}{add}</div>',
        "work": work,
        "bases": f'<div class="lib-bases">{"".join(cards)}</div>',
    }


def _use(context: Context, ref: str, name: str) -> str:
    if context.base == ref:
        return '<span class="lib-inuse">In use</span>'
    return markup.button("Use it", "use-base", name, style="small", title=f"Draw and teach with {name}")


def _memory(context: Context, ref: str) -> str:
    """What the drawing process holds of a base, in words; empty where it holds another or none."""
    loaded = context.runner.maker.loaded
    if loaded is None or loaded.base != ref:
        return ""
    weights, resident = markup.size(loaded.bytes), f"{loaded.resident / 1e9:.1f} GB"
    return (
        f'<p class="lib-loaded">Loaded on {text(loaded.device)}: {weights} of weights, {resident} of memory '
        "in all</p>"
    )


def _pocket(context: Context) -> str:
    return (
        f'<article class="lib-base" data-name="{POCKET}"><div><h4>pocket</h4>'
        '<p class="pg-sub">Embedded: small enough for a laptop without a graphics card</p>'
        f"{_memory(context, POCKET)}</div>"
        f'<div class="pg-row">{_use(context, POCKET, POCKET)}</div></article>'
    )


def _card(context: Context, entry: BaseEntry) -> str:
    info = entry.info
    said = [family_label(entry.family), markup.size(entry.bytes)]
    said += [f"{info['resolution']} px"] if info.get("resolution") else []
    said += [entry.prediction_type] if entry.prediction_type else []
    gone = '<p class="lib-gone">Its files are gone from there; put them back, or remove it.</p>'
    more = {
        "Parameters": _millions(info.get("parameters") or {}),
        "Stored in": ", ".join(sorted(set(map(str, (info.get("precisions") or {}).values())))),
        "VAE": str(info.get("vae", "")),
        "Licence": str(info.get("license", "")),
        "SHA-256": entry.sha256,
    }
    rows = "".join(f"<dt>{label}</dt><dd>{text(value)}</dd>" for label, value in more.items() if value)
    remove = markup.button("Remove", "remove-base", entry.name, style="small", title=f"Remove {entry.name}")
    where = text(entry.ref)
    if entry.listed_for_all:
        remove, where = "", "Listed for all accounts"
    use = "" if entry.missing else _use(context, entry.ref, entry.name)
    return (
        f'<article class="lib-base" data-name="{text(entry.name)}"><div><h4>{text(entry.name)}</h4>'
        f'<p class="pg-sub">{text(" · ".join(said))}</p>'
        f'<p class="pg-sub lib-where">{where}</p>{gone if entry.missing else ""}'
        f"{_memory(context, entry.ref)}<details class='lib-fold'><summary>More</summary>"
        f'<dl class="pg-facts">{rows}</dl></details></div><div class="pg-row">{use}{remove}</div></article>'
    )


def _millions(parameters: dict[str, int]) -> str:
    return f"{sum(parameters.values()) / 1e6:,.0f} million" if parameters else ""


def _add(context: Context, ids: Sequence[str]) -> dict[str, Any]:
    predictions = [
        ["As it says itself", ""],
        ["Noise (epsilon)", "epsilon"],
        ["Velocity (v)", "v_prediction"],
    ]
    precisions = [
        ["What suits this machine", ""],
        ["Half: fp16 files where there are", "fp16"],
        ["Full", "fp32"],
    ]
    fields: list[Field] = [
        field(
            "text", "ref", "Folder, file or hub id", max=1000, wide=True,
            placeholder="/models/a.safetensors, or org/name",
            hint="A diffusers folder, a .safetensors checkpoint, or a hub id, which is fetched.",
        ),
        field("text", "name", "Name", max=80, placeholder="made by itself"),
        field("select", "precision", "Files of a hub id", value="", choices=precisions),
        field(
            "select", "prediction_type", "What it predicts", value="", choices=predictions,
            hint="Needed where a file doesn’t say that it predicts v.",
        ),
    ]  # fmt: skip
    intro = "Stable Diffusion 1.x, 2.x and XL. Pickles are never opened."
    return {"title": "Add a base", "intro": intro, "fields": fields, "submit": "Add"}


def start(context: Context, values: Values) -> str:
    """Queue adding a base.

    Raises: BaseError where it can't be one, or its name is taken; ConfigError where it may not be named.
    """
    ref, name = str(values.get("ref", "")).strip(), " ".join(str(values.get("name", "")).split())
    check_ref(context, ref, "the base")
    found = (local_ref(ref) or hub_id(ref)) if ref else None
    if found is None:
        raise BaseError(
            f"no base {ref[:80]!r}: no such folder or file where Pigment runs; give a diffusers folder, "
            "a .safetensors file, or a hub id (org/name)"
        )
    if found == POCKET:
        raise BaseError("“pocket” is always there; give a folder, a .safetensors file or a hub id")
    if name and Bases(context.workspace).find(name) is not None:
        raise BaseError(f"another base is called {name!r}; choose another name")
    config = {key: values.get(key) or None for key in ("precision", "prediction_type")}
    context.jobs.submit("add_base", name or ref[-80:], {"ref": found, "name": name, **config})
    context.runner.wake()
    return "It is being fetched" if hub_ref(ref) is not None else "It is being looked at"


FORMS: dict[str, Form] = {
    "add-base": Form(fields=_add, submit=lambda context, ids, values: start(context, values)),
}


def use(context: Context, name: str) -> str:
    """Draw and teach with a base from now on; its loading begins.

    Raises:
        BaseError: there is none of that name, its files are gone, or --base says which one it is.
    """
    if context.given:
        raise BaseError(f"Pigment was started with --base {context.given}; start it without to choose here")
    ref = Bases(context.workspace).use(name)
    context.runner.base = context.runner.maker.base = ref
    threading.Thread(target=_load, args=(context, ref), name="warm", daemon=True).start()
    return f"Pictures are drawn, and adapters taught, with {name} from now on"


def _load(context: Context, ref: str) -> None:
    with suppress(StudioError):  # whoever draws hears of it
        context.runner.maker.ask("warm", base=ref)


def remove(context: Context, name: str) -> str:
    """Take a base off the list. Raises: BaseError for the one in use."""
    bases = Bases(context.workspace)
    if bases.get(name).ref == context.base:
        raise BaseError(f"{name!r} is in use; choose another base first")
    bases.remove(name)
    return f"{name} is off the list; its files stay where they are"
