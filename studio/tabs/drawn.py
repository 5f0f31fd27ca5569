"""Drawn pictures as pieces of HTML: what is being drawn, what was drawn last, what was drawn before."""

from __future__ import annotations

from studio import markup, mixing
from studio.context import Context
from studio.gallery import SIZES, Drawn, Gallery
from studio.jobs import Job
from studio.markup import text
from studio.parts import Pieces

EARLIER = 12  # pictures


def pieces(context: Context, key: str) -> Pieces:
    """The newest drawing job and what was drawn; the key isn't used."""
    newest = context.jobs.find(kind="generate", limit=1)
    done = context.jobs.find(kind="generate", states=("done",), limit=1)
    last = done[0] if done else None
    return {
        "status": status(context, newest[0] if newest else None),
        "pictures": pictures(context, last),
        "earlier": earlier(context, last),
    }


def status(context: Context, job: Job | None) -> str:
    """Progress of the newest drawing, or why it ended early; empty when it is done."""
    if job is None or job.state == "done":
        return ""
    if job.active:
        label = mixing.waiting_for(context, job) or job.message or "Starting"
        bar = markup.progress(job.step / job.total if job.total else None, "drawing")
        stop = markup.button("Cancel", "stop", job.id, style="small")
        figures = f'<div class="pg-figures" role="status"><span>{text(label)}</span>{stop}</div>'
        return f'<div class="pg-card" data-state="{job.state}">{bar}{figures}</div>'
    return f'<div class="pg-note" role="alert" data-state="{job.state}">{text(job.error or job.state)}</div>'


def _shown(gallery: Gallery, image_id: str | None) -> Drawn | None:
    """A picture that is still there."""
    from pipelines.errors import PictureError

    try:
        found = gallery.get(image_id) if image_id else None
    except PictureError:
        return None
    return None if found is None or found.trashed is not None else found


def _figure(picture: Drawn, plain: Drawn | None = None) -> str:
    """A picture with what can be done with it; with a divider where one without adapters is beside it."""
    address, about = markup.url("image", picture.id), text(picture.prompt)
    if plain is None:
        size = f'width="{picture.width}" height="{picture.height}"' if picture.width else ""
        shown = (
            f'<a href="{address}" target="_blank" rel="noopener">'
            f'<img src="{address}" {size} alt="{about}" loading="lazy"></a>'
        )
    else:
        before = markup.url("image", plain.id)
        shown = (
            f'<pg-compare before="{before}" after="{address}" before-label="without" after-label="with" '
            f'alt="{about}"></pg-compare>'
        )
    over = (
        f'<button type="button" class="pg-btn small" data-mix-image="image/{picture.id}" '
        f'title="Take this picture to draw over">Draw over it</button>'
    )
    save = markup.download("Save", address, picture.file_name, style="small")
    label = "grid" if picture.kind == "grid" else f"seed {picture.seed}"
    caption = f"<figcaption><span>{label}</span>{over if picture.kind != 'grid' else ''}{save}</figcaption>"
    return f'<figure class="pg-picture" data-id="{picture.id}">{shown}{caption}</figure>'


def pictures(context: Context, job: Job | None) -> str:
    """The pictures of a finished drawing, each over the one without adapters where that was asked for."""
    if job is None:
        return ""
    gallery, result = Gallery(context.workspace), job.result
    ids = list(result.get("images", ()))
    plain = list(result.get("plain") or ()) or [None] * len(ids)
    whole = _shown(gallery, result.get("grid"))
    figures = [_figure(whole)] if whole is not None else []
    for image_id, other in zip(ids, plain, strict=True) if whole is None else ():
        found = _shown(gallery, image_id)
        if found is not None:
            figures.append(_figure(found, _shown(gallery, other)))
    if not figures:
        return ""
    kind = "whole" if whole is not None else "single" if len(figures) == 1 else ""
    return (
        f'<p class="pg-sub pg-drawn-title">{text(job.title)}</p>'
        f'<div class="pg-pictures pg-drawn {kind}" data-job="{job.id}">{"".join(figures)}</div>'
    )


def earlier(context: Context, job: Job | None) -> str:
    """The pictures drawn before those of `job`."""
    shown = {image for name in ("images", "plain") for image in (job.result.get(name) or () if job else ())}
    found = Gallery(context.workspace).search("", size=EARLIER + len(shown)).pictures
    others = [picture for picture in found if picture.id not in shown][:EARLIER]
    if not others:
        return ""
    figures = "".join(
        f'<figure class="pg-picture"><a href="{markup.url("image", one.id)}" target="_blank" rel="noopener">'
        f'<img src="{markup.url("image", one.id, str(SIZES[0]))}" loading="lazy" '
        f'alt="{text(one.prompt)}"></a></figure>'
        for one in others
    )
    return f'<p class="pg-sub">Earlier</p><div class="pg-pictures few">{figures}</div>'
