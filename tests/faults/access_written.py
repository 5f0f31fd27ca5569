"""HTML and scripts in whatever people write: a text of each kind in every place that holds one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipelines.files import file_sha256
from studio.work.keeping import LOG
from studio.workspace import Workspace
from tests.faults.access_things import adapter, png

TEXTS = (
    "<img src=x onerror=ran(@)>", "<script>ran(@)</script>", '"><svg onload=ran(@)>',
    "'><img src=x onerror='ran(@)'>",
    "</textarea><img src=x onerror=ran(@)>",
    "</script><script>ran(@)</script>", "<details open ontoggle=ran(@)>",

    "<iframe srcdoc='<script>parent.ran(@)</script>'>", '" autofocus onfocus=ran(@) x="', "${ran(@)}",
    "{{ran(@)}}",
    "`${ran(@)}`", "<% ran(@) %>", "{{{'<img src=x onerror=ran(@)>'}}}", "javascript:ran(@)",
    "[x](javascript:ran(@))", "&lt;img src=x onerror=ran(@)&gt;", "\\u003cimg src=x onerror=ran(@)\\u003e",
    "<a href=javascript:ran(@)>x</a>", "<style>@import'x'</style><img src=x onerror=ran(@)>",
)  # fmt: skip
"""`@` becomes the number of the place that the text is written in."""
PLACES = (
    "adapter's name", "adapter's notes", "adapter's tag", "adapter's trigger", "adapter's metadata",
    "job's title",
    "job's error", "job's log", "picture's prompt", "picture's adapter", "recipe's name",
    "recipe's prompt", "recipe's adapter", "caption", "picture file's name", "base's name",
    "trigger", "class", "note on a picture", "evidence's name", "evidence's trigger",
    "evidence's reason",
)  # fmt: skip


def numbered(place: int, text: int) -> str:
    """A text for a place, with its number in it."""
    return TEXTS[text].replace("@import", "\0").replace("@", str(place * 100 + text)).replace("\0", "@import")


def write(root: Path, text: int) -> None:
    """Write one text into every place of a workspace, as a hostile file or an old version would."""
    said = {place: numbered(number, text) for number, place in enumerate(PLACES)}
    run, image, entry = (f"6b1b2c3{kind}-{text:010x}" for kind in "123")
    sha256 = f"{text:064x}"
    files = {
        f"images/{image}.png": png("x"), f"pictures/{sha256}.png": png("x"), f"runs/{run}/events.jsonl": b"",
        f"adapters/{entry}.safetensors": adapter(said["adapter's metadata"]),
        f"runs/{run}/{LOG}": said["job's log"].encode(),
    }  # fmt: skip
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rows = {**_made(said, text, run, image, entry), **_given(said, text, sha256)}
    workspace = Workspace.open(root, own=False)
    with workspace.write() as db:
        for table, row in rows.items():
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    workspace.close()
    _evidence(root / "runs" / run, said)


Rows = dict[str, dict[str, Any]]


def _made(said: dict[str, str], text: int, run: str, image: str, entry: str) -> Rows:
    """Rows of what was made here: a run, its adapter, a picture that was drawn."""
    now = time.time() + text
    taught = {"trigger": said["trigger"], "class_name": said["class"]}
    used = {"name": said["picture's adapter"], "sha256": "1" * 64, "weight": 1.0}
    drawn = {"prompt": said["picture's prompt"], "width": 48, "height": 40, "seed": text, "adapters": [used]}
    info = {"triggers": [said["adapter's trigger"]], "method": "lora"}
    return {
        "jobs": {
            "id": run, "kind": "train", "title": said["job's title"], "state": ("failed", "done")[text % 2],
            "config": json.dumps({"data": taught}), "error": said["job's error"], "created": now,
            "started": now, "finished": now, "position": now,
            "details": json.dumps({"trigger": said["trigger"], "lower": said["job's error"]}),
        },
        "images": {
            "id": image, "file": f"images/{image}.png", "seed": text, "created": now, "width": 48,
            "settings": json.dumps({"generation": drawn}), "words": said["picture's prompt"], "height": 40,
        },
        "adapters": {
            "id": entry, "name": said["adapter's name"], "file": f"workspace:adapters/{entry}.safetensors",
            "origin": "imported", "sha256": f"{text:064x}", "info": json.dumps(info), "created": now,
            "tags": json.dumps([said["adapter's tag"]]), "notes": said["adapter's notes"], "words": "x",
            "family": "sd15", "method": "lora", "bytes": 9, "job": run,
        },
    }  # fmt: skip


def _given(said: dict[str, str], text: int, sha256: str) -> Rows:
    """Rows of what was brought here: pictures with captions, a recipe, a base."""
    now = time.time() + text
    taught = {"trigger": said["trigger"], "class_name": said["class"]}
    dataset, name, notes = f"6b1b2c34-{text:010x}", said["picture file's name"], said["note on a picture"]
    recipe = {
        "pigment_recipe": 1, "name": said["recipe's name"], "prompt": said["recipe's prompt"],
        "base": {"ref": "pocket", "family": "pocket", "sha256": "0" * 64},
        "adapters": [{"name": said["recipe's adapter"], "sha256": "1" * 64, "bytes": 9}, _mixable()],
    }  # fmt: skip
    return {
        "recipes": {
            "id": f"6b1b2c35-{text:010x}", "name": said["recipe's name"], "text": json.dumps(recipe),
            "created": now, "changed": now,
        },
        "pictures": {
            "sha256": sha256, "file": f"{sha256}.png", "name": name, "width": 48, "height": 40, "bytes": 9,
            "notes": json.dumps([notes]), "created": now,
        },
        "datasets": {
            "id": dataset, "name": "a set", "created": now, "changed": now, "settings": json.dumps(taught),
        },
        "dataset_pictures": {
            "dataset": dataset, "position": 0, "sha256": sha256, "name": name, "caption": said["caption"],
        },
        "bases": {
            "name": said["base's name"], "ref": "/x", "family": "sd15", "prediction_type": "epsilon",
            "bytes": 9, "sha256": sha256, "created": now,
        },
    }  # fmt: skip


def _mixable() -> dict[str, Any]:
    """As a recipe names an adapter that is there: it loads as long as one is."""
    from studio.examples import example_sets

    path = next(one.adapter for one in example_sets() if one.adapter)
    return {"name": "example", "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _evidence(folder: Path, said: dict[str, str]) -> None:
    """What was measured of the run, with a report."""
    from tests.made_runs import made_record
    from trainers.evidence.record import Choice, write_record
    from trainers.evidence.report import write_report

    choice = Choice(step=50, last=100, rule="held_out", reason=said["evidence's reason"])
    record = made_record(folder, said["evidence's name"], choice=choice)
    run = {**record.run, "trigger": said["evidence's trigger"]}
    write_record(folder, record.model_copy(update={"run": run}))
    write_report(folder)
