"""Drawn pictures as pieces of HTML: what is being drawn, what was drawn last, what was drawn before."""

from __future__ import annotations

import json

from studio import markup, mixing
from studio.context import Context
from studio.jobs import Job
from studio.markup import text


def status(context: Context, job: Job | None) -> str:
    """Progress of the newest drawing, or why it ended early; empty when it is done."""
    if job is None or job.state == "done":
        return ""
    if job.active:
        label = mixing.waiting_for(context, job) or job.message or "Starting"
        bar = markup.progress(job.step / job.total if job.total else None, "drawing")
        stop = markup.button("Stop", "stop", job.id, style="small")
        figures = f'<div class="pg-figures"><span>{text(label)}</span>{stop}</div>'
        return f'<div class="pg-card" data-state="{job.state}">{bar}{figures}</div>'
    return f'<div class="pg-note" data-state="{job.state}">{text(job.error)}</div>'


def _prompt(settings: str) -> str:
    return str(json.loads(settings).get("generation", {}).get("prompt", ""))


def _figure(context: Context, image_id: str, plain_id: str | None = None) -> str:
    with context.workspace.read() as db:
        row = db.execute("SELECT seed, settings FROM images WHERE id = ?", (image_id,)).fetchone()
    if row is None:
        return ""
    prompt = _prompt(row["settings"])
    address = markup.url("image", image_id)

    def side(image: str, label: str) -> str:
        here = markup.url("image", image)
        tag = f"<span>{label}</span>" if plain_id else ""
        shown = f'<img src="{here}" alt="{text(prompt)}" loading="lazy">'
        return f'<a class="pg-side" href="{here}" target="_blank">{shown}{tag}</a>'

    sides = (
        side(image_id, "with adapters")
        if plain_id is None
        else (f'<div class="pair">{side(plain_id, "without")}{side(image_id, "with")}</div>')
    )
    save = markup.download("Save", address, f"pigment-{row['seed']}-{image_id[-6:]}.png", style="small")
    caption = f"<figcaption><span>seed {row['seed']}</span>{save}</figcaption>"
    return f'<figure class="pg-picture">{sides}{caption}</figure>'


def pictures(context: Context, job: Job | None) -> str:
    """The pictures of a finished drawing, each beside the one without adapters where that was asked for."""
    if job is None:
        return markup.empty("No pictures yet", "Write a prompt, move a slider, press “Generate”.")
    plain = job.result.get("plain") or [None] * len(job.result.get("images", ()))
    figures = [
        _figure(context, image, other)
        for image, other in zip(job.result.get("images", ()), plain, strict=True)
    ]
    pairs = " pairs" if job.result.get("plain") else ""
    shown = f'<div class="pg-pictures{pairs}" data-job="{job.id}">{"".join(figures)}</div>'
    return f'<p class="pg-sub">{text(job.title)}</p>{shown}'


def earlier(context: Context, job: Job | None) -> str:
    """The pictures drawn before those of `job`."""
    shown = {image for name in ("images", "plain") for image in (job.result.get(name, ()) if job else ())}
    others = [row for row in context.recent_images(40) if row["id"] not in shown][:24]
    if not others:
        return ""
    figures = "".join(
        f'<figure class="pg-picture"><a href="{markup.url("image", row["id"])}" target="_blank">'
        f'<img src="{markup.url("image", row["id"])}" loading="lazy" '
        f'alt="{text(_prompt(row["settings"]))}"></a></figure>'
        for row in others
    )
    return f'<p class="pg-sub">Earlier</p><div class="pg-pictures few">{figures}</div>'
