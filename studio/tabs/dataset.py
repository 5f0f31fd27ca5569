"""What the picture widget asks of the server, and the part that says when a dataset has changed elsewhere."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError, StudioError
from studio import markup
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.markup import text
from studio.uploads import let_go

log = logging.getLogger("pigment")

Asked = dict[str, Any]
Verb = Callable[[Asked], Asked]


def items(dataset: Dataset) -> list[dict[str, Any]]:
    """The pictures as the widget draws them."""
    return [
        {
            "sha": item.sha256, "name": item.name, "caption": item.caption, "width": item.width,
            "height": item.height, "notes": list(item.notes),
        }
        for item in dataset.items
    ]  # fmt: skip


def server_functions(context: Context) -> list[Verb]:
    """What `js/pictures.js` calls: each takes and gives JSON; `{"error": line}` where it went wrong."""
    datasets = Datasets(context.workspace)

    def take(asked: Asked) -> Asked:
        """`{dataset, files: [{path, name}]}`: add what was uploaded."""
        dataset_id = str(asked.get("dataset") or "") or datasets.new().id
        files = [(uploaded(context, one["path"]), str(one["name"])) for one in asked["files"]]
        taken = datasets.take(dataset_id, files)
        let_go(context.workspace, (path for path, _ in files))
        refused = [{"name": one.name, "reason": one.reason} for one in taken.refused]
        return {
            "dataset": dataset_id, "items": items(datasets.get(dataset_id)), "refused": refused,
            "notes": list(taken.notes),
        }  # fmt: skip

    def caption(asked: Asked) -> Asked:
        """`{dataset, sha, text}`: what a picture shows."""
        datasets.caption(str(asked["dataset"]), str(asked["sha"]), str(asked["text"]))
        return {}

    def remove(asked: Asked) -> Asked:
        """`{dataset, sha}`: take a picture out."""
        datasets.remove(str(asked["dataset"]), str(asked["sha"]))
        return {"items": items(datasets.get(str(asked["dataset"])))}

    return [_answered(verb) for verb in (take, caption, remove)]


def _answered(verb: Verb) -> Verb:
    def answered(asked: Asked) -> Asked:
        try:
            return verb(asked)
        except StudioError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError):
            return {"error": "the page asked for something unknown; reload it"}
        except Exception as error:
            log.exception("%s failed", verb.__name__)
            return {"error": f"something went wrong ({type(error).__name__}); the server's output says more"}

    answered.__name__ = verb.__name__
    return answered


def uploaded(context: Context, path: object) -> Path:
    """The file that a browser says it has uploaded. Raises: PictureError: it isn't one."""
    found = context.workspace.uploaded(path)
    if found is None:
        raise PictureError("the file isn't there any more; drop it again")
    return found


def pieces(context: Context, key: str) -> dict[str, str]:
    """A dataset's state: the captions that are being written, and a mark that differs after any change."""
    if not key:
        return {"captions": ""}
    dataset = Datasets(context.workspace).get(key)
    mark = hashlib.blake2b(json.dumps(items(dataset)).encode(), digest_size=6).hexdigest()
    waiting = context.jobs.find(kind="captions", limit=8)
    job = next((one for one in waiting if one.config.get("dataset") == key), None)
    said = ""
    if job is not None and job.active:
        share = job.step / job.total if job.total else None
        stage = text(job.message or "Writing captions …")
        said = f'{markup.progress(share, "captions")}<p class="pg-sub">{stage}</p>'
    elif job is not None and job.error:
        said = f'<div class="pg-note">{text(job.error)}</div>'
    return {"captions": said, "mark": f'<i hidden data-mark="{mark}"></i>'}
