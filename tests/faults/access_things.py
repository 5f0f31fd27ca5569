"""Two people's workspaces, with something private of every kind in them that says when it is read."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.workspace import INDEX_NAME, Workspace

COVER = "0123456789ab"
HELD = b"canary-"


@dataclass(frozen=True)
class Things:
    """What somebody has. ids: of things by kind. addresses: that answer them and nobody else, by kind.

    uploads: paths of files that they have dropped on the page.
    """

    root: Path
    canary: str
    ids: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)


def canary(*words: str) -> str:
    """A text that stands nowhere but where it was put."""
    return f"canary-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:20]}"


def png(word: str, colour: tuple[int, int, int] = (200, 40, 90)) -> bytes:
    """A picture with a word in it."""
    from io import BytesIO

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told, out = PngInfo(), BytesIO()
    told.add_text("Comment", word)
    Image.new("RGB", (48, 40), colour).save(out, "PNG", pnginfo=told)
    return out.getvalue()


def adapter(word: str) -> bytes:
    """One of the adapters that come with Pigment, with a word in its metadata."""
    from studio.examples import example_sets

    source = next(one.adapter for one in example_sets() if one.adapter)
    content = source.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {**header.get("__metadata__", {}), "modelspec.description": word}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def fill(root: Path, who: str) -> Things:
    """Put something of every kind into a workspace, in its folders and its index.

    who: stands in everything's canary.
    """
    word, colour = canary(who), (90, 40, 200) if who == "A" else (20, 160, 60)
    things = Things(root, word)
    workspace = Workspace.open(root, own=False)
    ids = things.ids
    ids.update(image=_id(who, 1), run=_id(who, 2), export=_id(who, 3), recipe=_id(who, 4))
    content = png(word, colour)
    _write(workspace.folder("images", f"{ids['image']}.png"), content)
    _write(workspace.folder("trash", f"{word}.txt"), word.encode())
    run = workspace.folder("runs", ids["run"])
    for name in ("previews/000010.png", "evidence/drawn-00.png"):
        _write(run / name, content)
    for name in ("report.html", "events.jsonl", "worker.log", "config.json"):
        _write(run / name, json.dumps({"what": word}).encode())
    _write(workspace.folder("pictures", ids["run"], "001.png"), content)
    _write(workspace.folder("cache", "exports", ids["export"], "x.safetensors"), adapter(word))
    _rows(workspace, ids, word)
    _dataset(workspace, things, content)
    _adapter(workspace, things, content)
    things.addresses.update({
        "image": f"/files/image/{ids['image']}", "small image": f"/files/image/{ids['image']}/{_size()}",
        "preview": f"/files/preview/{ids['run']}/000010.png", "report": f"/files/report/{ids['run']}",
        "evidence": f"/files/evidence/{ids['run']}/drawn-00.png",
        "taught": f"/files/taught/{ids['run']}/001.png",
        "export": f"/files/export/{ids['export']}", "job": f"/api/jobs/{ids['run']}",
        "picture": f"/files/picture/{ids['picture']}/0",
        "small picture": f"/files/picture/{ids['picture']}/320",
        "adapter": f"/files/adapter/{ids['adapter']}", "cover": f"/files/cover/{ids['adapter']}/{COVER}",
        "adapter's report": f"/files/report/adapter/{ids['adapter']}",
        "recipe": f"/mix/recipes/{ids['recipe']}/file",
    })  # fmt: skip
    workspace.close()
    return things


def _id(who: str, number: int) -> str:
    return f"6a1b2c3d-{hashlib.sha256(f'{who}{number}'.encode()).hexdigest()[:10]}"


def _size() -> int:
    from studio.gallery import SIZES

    return min(SIZES)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _rows(workspace: Workspace, ids: dict[str, str], word: str) -> None:
    """A drawn picture, two jobs that are done, and a recipe."""
    now = time.time()
    settings = {"generation": {"prompt": f"a {word}", "width": 48, "height": 40}}
    pictures = str(workspace.folder("pictures", ids["run"]))
    jobs: tuple[tuple[str, str, Any, Any], ...] = (
        (ids["run"], "train", {"data": {"instance_images": pictures}}, {}),
        (ids["export"], "export", {"adapter": "x", "format": "pigment"}, {"file": "x.safetensors"}),
    )
    base, one = (
        {"ref": "pocket", "family": "pocket", "sha256": "0" * 64},
        {"name": word, "sha256": "1" * 64, "bytes": 9},
    )
    recipe = {"pigment_recipe": 1, "name": f"r {word}", "prompt": word, "base": base, "adapters": [one]}
    with workspace.write() as db:
        db.execute(
            "INSERT INTO images (id, file, seed, settings, created, words, width, height) "
            "VALUES (?,?,?,?,?,?,?,?)",
            (ids["image"], f"images/{ids['image']}.png", 1, json.dumps(settings), now, f"a {word} 1", 48, 40),
        )
        for job_id, kind, config, result in jobs:
            db.execute(
                "INSERT INTO jobs (id, kind, title, state, config, result, created, started, finished, "
                "position) VALUES (?,?,?,'done',?,?,?,?,?,?)",
                (job_id, kind, f"{kind} {word}", json.dumps(config), json.dumps(result), now, now, now, now),
            )
        db.execute(
            "INSERT INTO recipes VALUES (?,?,?,?,?)",
            (ids["recipe"], f"r {word}", json.dumps(recipe), now, now),
        )


def _dataset(workspace: Workspace, things: Things, content: bytes) -> None:
    """A set of one picture with a caption."""
    from studio.datasets import Datasets
    from studio.decoding import decode

    datasets = Datasets(workspace)
    dropped = workspace.folder("cache", "dropped.png")
    dropped.write_bytes(content)
    kept = datasets.pictures.copy(dropped, decode(dropped, None), "mine.png")
    datasets.pictures.enter([kept])
    dropped.unlink()
    dataset = datasets.new(name=f"set {things.canary}")
    with workspace.write() as db:
        db.execute(
            "INSERT INTO dataset_pictures (dataset, position, sha256, name, caption) VALUES (?,0,?,?,?)",
            (dataset.id, kept.sha256, "mine.png", things.canary),
        )
    things.ids.update(picture=kept.sha256, dataset=dataset.id)


def _adapter(workspace: Workspace, things: Things, content: bytes) -> None:
    """An adapter with notes, a cover and a report; and one in the trash."""
    from studio.library import Library

    library = Library(workspace)
    file = workspace.folder("cache", "mine.safetensors")
    for name in ("adapter", "trashed"):
        file.write_bytes(adapter(f"{things.canary} {name}"))
        entry, _ = library.add(file, name=f"{name} {things.canary}")
        library.note(entry.id, things.canary)
        things.ids[name] = entry.id
    file.unlink()
    library.trash(things.ids["trashed"])
    _write(workspace.folder("adapters", f"{things.ids['adapter']}.{COVER}.jpg"), content)
    _write(workspace.folder("adapters", f"{things.ids['adapter']}.report.html"), things.canary.encode())


def system(folder: Path) -> tuple[Path, str]:
    """A file that belongs to nobody who comes by the page, and what is in it."""
    secret = folder / "system" / "secret.png"
    word = canary("system")
    _write(secret, png(word))
    return secret, word


def links(root: Path, secret: Path, run: str, adapter_id: str) -> dict[str, str]:
    """Links in a workspace that lead to a file outside; returns addresses by which they may be asked for."""
    number = "6a1b2c3d-00000011e5"
    places = {
        "images": (root / "images" / f"{number}.png", f"/files/image/{number}"),
        "previews": (root / "runs" / run / "previews" / "link.png", f"/files/preview/{run}/link.png"),
        "evidence": (root / "runs" / run / "evidence" / "link.png", f"/files/evidence/{run}/link.png"),
        "taught": (root / "pictures" / run / "002.png", f"/files/taught/{run}/002.png"),
        "cover": (
            root / "adapters" / f"{adapter_id}.aaaaaaaaaaaa.jpg", f"/files/cover/{adapter_id}/aaaaaaaaaaaa",
        ),
        "uploads": (root / "cache" / "uploads" / "link.png", ""),
    }  # fmt: skip
    for link, _ in places.values():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(secret)
    (root / "cache" / "uploads" / "folder").symlink_to(secret.parent)
    uploads = root / "cache" / "uploads"
    found = {name: address for name, (_, address) in places.items() if address}
    found["uploads"] = f"/gradio_api/file={uploads / 'link.png'}"
    found["uploads' folder"] = f"/gradio_api/file={uploads / 'folder' / secret.name}"
    return found


def state(root: Path, *, without: str = "") -> str:
    """A hash of all files and all rows of a workspace. without: a folder of it that isn't looked at."""
    found = hashlib.sha256()
    for path in sorted(_files(root)):
        name = path.relative_to(root).as_posix()
        # SQLite's own files differ by what has been checkpointed; their rows are read below.
        if name.startswith(INDEX_NAME) or (without and name.startswith(f"{without}/")):
            continue
        found.update(name.encode() + b"\0" + (b"" if path.is_symlink() else path.read_bytes()))
    for row in _dump(root):
        found.update(row)
    return found.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_symlink() or path.is_file())


def _dump(root: Path) -> Iterator[bytes]:
    workspace = Workspace(root=root, lock=None)
    with workspace.read() as db:
        tables: list[Any] = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for table in sorted(row[0] for row in tables):
            for row in db.execute(f"SELECT * FROM {table} ORDER BY rowid"):
                yield repr((table, tuple(row))).encode()


def strays(root: Path, words: dict[str, str], *, without: str = "") -> str | None:
    """What of others' has come into a workspace, as one line; None: nothing. words: by what it is."""
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or name.startswith(INDEX_NAME) or (without and name.startswith(f"{without}/")):
            continue
        content = path.read_bytes()
        for what, word in words.items():
            if word.encode() in content:
                return f"{what} was copied to {name}"
    rows = b"".join(_dump(root))
    return next(
        (f"{what} was copied into the index" for what, word in words.items() if word.encode() in rows), None
    )
