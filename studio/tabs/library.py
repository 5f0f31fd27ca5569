"""Library: the adapters as cards; one of them open with all that can be done with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines.errors import AdapterError
from studio import exporting, markup
from studio.context import Context
from studio.exporting import DEFAULT_RANK
from studio.library import Entry
from studio.markup import text
from studio.tabs.page import BUSY, QUIET, Page, show, toast

COVER_COLOURS = ("#e4572e", "#3f45bd", "#c8891a", "#2f8f5b", "#8e4aa8", "#1f7fa6")
ORIGINS = {"trained": "taught here", "imported": "imported", "example": "comes with Pigment"}


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    chosen = gr.State("")
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320):
            cards = gr.HTML(elem_id="adapters", js_on_load=markup.CLICKS)
            imported = gr.File(
                label="Import adapters: drop .safetensors files here", file_count="multiple", height=132,
                elem_id="import",
            )  # fmt: skip
            trash = gr.HTML(elem_id="trash", js_on_load=markup.CLICKS)
        with gr.Column(scale=5, min_width=320):
            detail = gr.HTML(elem_id="adapter-detail", js_on_load=markup.CLICKS)
            with gr.Column(visible=False, elem_id="adapter-tools") as tools:
                format_box = gr.Radio([], label="Export for", elem_id="export-format")
                rank = gr.Slider(
                    1, 128, DEFAULT_RANK, step=1, label="Rank of the plain LoRA", visible=False,
                    info="Higher is nearer to the original; the report says how near.", elem_id="export-rank",
                )  # fmt: skip
                export = gr.Button("Check and export", variant="primary", size="md", elem_id="export")
                report = gr.HTML(elem_id="export-report")
                name = gr.Textbox(label="Name", max_length=80, elem_id="rename-to", interactive=True)
                with gr.Row():
                    rename = gr.Button("Rename", size="md", min_width=120, elem_id="rename")
                    throw = gr.Button("Move to trash", size="md", min_width=120, elem_id="to-trash")
    pieces = [cards, trash, detail, tools, name, format_box, rank]
    render = toast(_renderer(context))
    refresh = {"fn": render, "inputs": [chosen], "outputs": pieces, **QUIET}

    page.blocks.load(**refresh)
    page.adapters_changed.change(**refresh)
    chosen.change(**refresh).then(lambda: gr.HTML("", visible=False), None, report, **QUIET).then(
        None, js=show("adapter-detail"), **QUIET
    )
    for component in (cards, trash, detail):
        component.click(
            toast(_acting(context)), chosen, [chosen, page.wish, page.tabs, page.adapters_changed], **QUIET
        )
    imported.upload(toast(_importer(context)), imported, [imported, chosen, page.adapters_changed], **BUSY)
    export.click(toast(_exporter(context)), [chosen, format_box, rank], report, **BUSY)
    format_box.input(toast(_ranker(context)), [chosen, format_box], rank, **QUIET)
    gr.on(
        [rename.click, name.submit], toast(_renamer(context)), [chosen, name], page.adapters_changed, **QUIET
    )
    throw.click(toast(_thrower(context)), chosen, [chosen, page.adapters_changed], **QUIET)


def _renderer(context: Context) -> Callable[..., Any]:
    def render(chosen: str) -> list[Any]:
        """Cards, trash and the open adapter."""
        entries = context.library.entries()
        opened = next((entry for entry in entries if entry.id == chosen), None)
        trashed = context.library.entries(trashed=True)
        return [
            _cards(entries, chosen),
            gr.HTML(_trash(trashed), visible=bool(trashed)),
            _detail(opened)
            if opened
            else markup.empty("Nothing chosen", "Choose an adapter to export, rename or remove it."),
            gr.Column(visible=opened is not None),
            opened.name if opened else "",
            *_forms(opened),
        ]

    return render


def _forms(entry: Entry | None) -> list[Any]:
    """The forms that the open adapter can be exported to, and whether the first one asks for a rank."""
    offered = exporting.choices(entry) if entry else []
    if entry is None or not offered:
        return [gr.Radio(choices=[]), gr.Slider(visible=False)]
    first = offered[0][1]
    return [
        gr.Radio(choices=offered, value=first),
        gr.Slider(visible=exporting.becomes_lora(first, entry)),
    ]


def _ranker(context: Context) -> Callable[..., Any]:
    def ask_rank(chosen: str, format: str) -> Any:
        """Show the rank where the form takes the adapter only as plain LoRA."""
        return gr.Slider(visible=exporting.becomes_lora(format, context.library.get(chosen)))

    return ask_rank


def _cover(entry: Entry) -> str:
    if entry.cover:
        return f'<img class="cover" src="{markup.url(*entry.cover.split("/"))}" alt="" loading="lazy">'
    colour = COVER_COLOURS[sum(entry.id.encode()) % len(COVER_COLOURS)]
    letter = text(entry.name[:1].upper())
    return f'<span class="cover none" style="background:{colour}" aria-hidden="true">{letter}</span>'


def _facts(entry: Entry) -> str:
    family = str(entry.info.get("family", "")).upper()
    rank = f"rank {entry.rank}" if entry.rank else str(entry.info.get("method", ""))
    return f"{text(family)} · {text(rank)} · {markup.size(entry.info.get('bytes', 0))}"


def _cards(entries: list[Entry], chosen: str) -> str:
    if not entries:
        return markup.empty("No adapters yet", "Teach one, or drop a .safetensors file below.")
    cards = []
    for entry in entries:
        words = "".join(f'<span class="pg-chip">{text(word)}</span> ' for word in entry.triggers[:3])
        style = "pg-adapter chosen" if entry.id == chosen else "pg-adapter"
        cards.append(
            f'<button type="button" class="{style}" data-act="open" '
            f'data-id="{text(entry.id)}">{_cover(entry)}<span class="what"><b>{text(entry.name)}</b>'
            f'<span>{words}</span><span class="pg-sub">{_facts(entry)}</span>'
            f'<span class="pg-sub">{ORIGINS.get(entry.origin, "")}</span></span></button>'
        )
    return f'<div class="pg-adapters">{"".join(cards)}</div>'


def _trash(entries: list[Entry]) -> str:
    rows = "".join(
        markup.button(f"Bring back “{entry.name}”", "restore", entry.id, style="small")
        for entry in entries[:20]
    )
    return f'<p class="pg-sub">In the trash</p><div class="pg-row">{rows}</div>'


def _detail(entry: Entry) -> str:
    words = ", ".join(entry.triggers) or "none known"
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    facts = {
        "Trigger": words,
        "Base family": str(entry.info.get("family", "")).upper(),
        "Method": str(entry.info.get("method", "")),
        "Rank": entry.info.get("rank", ""),
        "Layers": entry.info.get("modules", ""),
        "Form, precision": f"{entry.info.get('format', '')}, {entry.info.get('dtype', '')}",
        "Size": markup.size(entry.info.get("bytes", 0)),
        "From": f"{ORIGINS.get(entry.origin, '')}, {date}",
        "SHA-256": f"{entry.sha256[:16]}…",
    }
    rows = "".join(f"<dt>{label}</dt><dd>{text(value)}</dd>" for label, value in facts.items())
    link = markup.download("Download as it is", markup.url("adapter", entry.id), entry.file_name)
    mix = markup.button("Try it in Mix", "mix", entry.id, style="main")
    return (
        f'<div class="pg-card"><h3>{text(entry.name)}</h3><dl class="pg-facts">{rows}</dl>'
        f'<div class="pg-row">{mix}{link}</div></div>'
    )


def _acting(context: Context) -> Callable[..., Any]:
    def act(chosen: str, event: gr.EventData) -> list[Any]:
        """A button on a card: open, mix, restore."""
        verb, adapter_id = str(event.act), str(event.id)
        if verb == "mix":
            prompt = call(context.library.get(adapter_id))
            wish = {"adapter": adapter_id, "prompt": prompt, "at": time.time()}
            return [chosen, wish, gr.Tabs(selected="mix"), gr.skip()]
        if verb == "restore":
            context.library.restore(adapter_id)
            return [adapter_id, gr.skip(), gr.skip(), context.library.changes()]
        return [adapter_id, gr.skip(), gr.skip(), gr.skip()]

    return act


def call(entry: Entry) -> str:
    """A first prompt for an adapter."""
    word = entry.triggers[0] if entry.triggers else ""
    known = str((entry.info.get("metadata") or {}).get("instance_prompt") or "")
    return known or (f"a photo of {word}" if word else "a photo of a cat")


def _importer(context: Context) -> Callable[..., Any]:
    def import_files(paths: list[str] | None) -> list[Any]:
        """Take the good files into the library, say what is wrong with the others."""
        chosen: Any = gr.skip()
        for path in paths or []:
            try:
                entry, new = context.library.add(
                    Path(path), check=lambda file: context.runner.maker.ask("check", path=str(file))
                )
            except AdapterError as error:
                gr.Warning(str(error), duration=12)
                continue
            chosen = entry.id
            gr.Info(f"{entry.name} is in the library" if new else f"{entry.name} was in the library already")
        return [None, chosen, context.library.changes()]

    return import_files


def _exporter(context: Context) -> Callable[..., Any]:
    def export(chosen: str, format: str, rank: int) -> Any:
        """Write the file, compare it with the adapter, offer it."""
        entry = context.library.get(chosen)
        if format not in [form for _, form in exporting.choices(entry)]:
            raise AdapterError(f"{entry.name!r} can't be exported as {format!r}; choose a form that is shown")
        as_lora = int(rank) if exporting.becomes_lora(format, entry) else None
        target = context.export_path(entry, format)
        target.parent.mkdir(parents=True, exist_ok=True)
        answer = context.runner.maker.ask(
            "export", adapter=entry.id, format=format, target=str(target), base=context.base, as_lora=as_lora
        )
        label = f"Download {target.name} ({markup.size(target.stat().st_size)})"
        address = markup.url("export", entry.id, format)
        link = markup.download(label, address, target.name, style="main")
        return gr.HTML(
            f'<div class="pg-report">{text(answer["text"])}</div><div class="pg-row">{link}</div>',
            visible=True,
        )

    return export


def _renamer(context: Context) -> Callable[..., Any]:
    def rename(chosen: str, name: str) -> int:
        context.library.rename(chosen, name)
        return context.library.changes()

    return rename


def _thrower(context: Context) -> Callable[..., Any]:
    def throw(chosen: str) -> list[Any]:
        entry = context.library.trash(chosen)
        gr.Info(f"{entry.name} is in the trash; it can be brought back below the list")
        return ["", context.library.changes()]

    return throw
