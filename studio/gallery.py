"""Gallery: every drawn picture with its settings, found by its words, with a trash that can be undone."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.errors import PictureError
from studio.workspace import Workspace, new_id

if TYPE_CHECKING:
    from pipelines.parameters import Restored
    from pipelines.picture import Picture

Kind = Literal["picture", "grid"]
PAGE = 48  # pictures
SIZES = (320, 640)  # pixels of a small picture's longer side
MAX_WORDS = 20_000  # characters that are kept for searching
MAX_TERMS = 12  # words of a search
_DECODING = threading.Semaphore(2)  # the pixels of a large grid take memory


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture in the gallery.

    Attributes:
        path: its PNG file, which holds the settings as well.
        job: the id of the job that drew it; None of pictures without one.
        settings: as in the file (see `pipelines.picture`).
        kind: "picture", or "grid" for several in one.
        width, height: pixels; 0 where the index of an older version didn't know.
        created, trashed: seconds since 1970; trashed is None while it isn't in the trash.
    """

    id: str
    path: Path
    job: str | None
    seed: int
    settings: dict[str, Any]
    kind: str
    width: int
    height: int
    created: float
    trashed: float | None

    @property
    def generation(self) -> dict[str, Any]:
        """What it was drawn with: the fields of a GenerationConfig."""
        found = self.settings.get("generation")
        return found if isinstance(found, dict) else {}

    @property
    def prompt(self) -> str:
        """What it was asked to show."""
        return str(self.generation.get("prompt") or "")

    @property
    def file_name(self) -> str:
        """A name to download it by."""
        return f"pigment-{self.seed}-{self.id[-6:]}.png"


@dataclass(frozen=True)
class Found:
    """One page of a search, the newest first. total: of all pages. page: counted from 0."""

    pictures: tuple[Drawn, ...]
    total: int
    page: int
    size: int = PAGE

    @property
    def pages(self) -> int:
        """How many pages there are, at least 1."""
        return max(1, -(-self.total // self.size))


def words_of(settings: Mapping[str, Any], seed: int) -> str:
    """What a picture is found by: its prompts, adapters, sampler, base and seed, in lower case."""
    told = settings.get("generation")
    generation: Mapping[str, Any] = told if isinstance(told, dict) else {}
    base = settings.get("base")
    uses = [use for use in generation.get("adapters") or () if isinstance(use, dict)]
    parts = [
        "grid" if "grid" in settings else None,
        generation.get("prompt"),
        generation.get("negative_prompt"),
        *(use.get("name") for use in uses),
        generation.get("sampler"),
        Path(str(base.get("ref", ""))).name if isinstance(base, dict) else "",
        seed,
    ]
    told_words = " ".join(" ".join(str(part).split()) for part in parts if part not in (None, ""))
    return told_words.casefold()[:MAX_WORDS]


def settings_of(path: str | Path) -> Restored:
    """How a PNG, JPEG or WebP of Pigment's, A1111's or ComfyUI's was made (see `pipelines.parameters`).

    Raises: PictureError for a file that can't be read, is too large, or says nothing of how it was made.
    """
    from pipelines.parameters import restore

    return restore(path)


@dataclass(frozen=True)
class Gallery:
    """The drawn pictures of one workspace; any process may hold one."""

    workspace: Workspace

    def add(self, picture: Picture, *, job: str | None = None, kind: Kind = "picture") -> str:
        """Keep a drawn picture: its file with the settings in it, and its row. Returns its id.

        Raises: PictureError where the system refuses to write the file, such as a full disk.
        """
        image_id = new_id()
        path = self.workspace.folder("images", f"{image_id}.png")
        picture.save(path)
        row = {
            "id": image_id,
            "file": f"images/{path.name}",
            "job": job,
            "seed": picture.seed,
            "settings": json.dumps(picture.settings, ensure_ascii=False),
            "created": time.time(),
            "kind": kind,
            "width": picture.image.width,
            "height": picture.image.height,
            "words": words_of(picture.settings, picture.seed),
        }
        try:
            with self.workspace.write() as db:
                db.execute(
                    f"INSERT INTO images ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})",
                    row,
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return image_id

    def get(self, image_id: str) -> Drawn:
        """The picture of that id, also one in the trash.

        Raises: PictureError: there is none.
        """
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise PictureError(
                f"no picture {image_id[:80]!r} in the gallery; it may have been removed for good"
            )
        return self._drawn(row)

    def ending(self, end: str) -> list[str]:
        """The ids that end so, at most ten: what people type of an id."""
        with self.workspace.read() as db:
            rows = db.execute("SELECT id FROM images WHERE substr(id, -length(?1)) = ?1 LIMIT 10", (end,))
            return [str(row["id"]) for row in rows]

    def search(
        self, text: str = "", page: int = 0, *, size: int = PAGE, kind: str = "", trashed: bool = False
    ) -> Found:
        """Pictures whose prompt, adapters, sampler, base or seed hold every word of `text`, the newest first.

        page: counted from 0; one beyond the last is the last. kind: "" for all.
        """
        where, values = _condition(text, kind, trashed)
        order = "ORDER BY created DESC, rowid DESC"
        with self.workspace.read() as db:
            total = db.execute(f"SELECT count(*) FROM images WHERE {where}", values).fetchone()[0]
            page = max(0, min(page, -(-total // size) - 1))
            # The rows' places first: the index alone answers that, and whole rows are read of one page.
            rows = db.execute(
                f"SELECT * FROM images WHERE rowid IN (SELECT rowid FROM images WHERE {where} {order} "
                f"LIMIT ? OFFSET ?) {order}",
                (*values, size, page * size),
            ).fetchall()
        return Found(tuple(self._drawn(row) for row in rows), total, page, size)

    def beside(self, image_id: str, text: str = "", kind: str = "") -> tuple[str | None, str | None]:
        """The ids of the next newer and the next older picture of a search; None where there is none."""
        where, values = _condition(text, kind, False)
        here = "(SELECT created FROM images WHERE id = ?)", "(SELECT rowid FROM images WHERE id = ?)"

        def neighbour(sign: str, order: str) -> str | None:
            with self.workspace.read() as db:
                row = db.execute(
                    f"SELECT id FROM images WHERE {where} AND (created, rowid) {sign} ({here[0]}, {here[1]}) "
                    f"ORDER BY created {order}, rowid {order} LIMIT 1",
                    (*values, image_id, image_id),
                ).fetchone()
            return None if row is None else str(row["id"])

        return neighbour(">", "ASC"), neighbour("<", "DESC")

    def small(self, image_id: str, size: int) -> Path:
        """A WebP of the picture with `size` pixels on its longer side, made where it is missing.

        size: one of SIZES. A picture that is as small is itself the answer.
        Raises: PictureError: there is no such picture, or its file is damaged.
        """
        assert size in SIZES, size
        target = self._kept(image_id, size)
        if target.is_file():
            return target
        from PIL import Image

        from studio.decoding import write_preview

        path = self.get(image_id).path
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if max(image.size) <= size:
                    return path
                with _DECODING:
                    write_preview(image.convert("RGB"), target, size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise PictureError(f"the file of picture {image_id!r} is gone or damaged") from None
        return target

    def trash(self, image_ids: Sequence[str]) -> int:
        """Put pictures into the trash; `restore` brings them back. Returns how many went."""
        return self._move(image_ids, time.time())

    def restore(self, image_ids: Sequence[str]) -> int:
        """Bring pictures back from the trash. Returns how many came."""
        return self._move(image_ids, None)

    def _move(self, image_ids: Sequence[str], trashed: float | None) -> int:
        other = "trashed IS NULL" if trashed is not None else "trashed IS NOT NULL"
        move = f"UPDATE images SET trashed = ? WHERE id = ? AND {other}"
        with self.workspace.write() as db:
            return sum(db.execute(move, (trashed, image_id)).rowcount for image_id in image_ids)

    def empty_trash(self) -> tuple[int, int]:
        """Remove the pictures in the trash for good. Returns how many, and their bytes.

        An adapter's cover stays in the trash: the library goes on showing it.
        """
        gone = (
            "trashed IS NOT NULL AND 'image/' || id NOT IN (SELECT cover FROM adapters WHERE cover NOT NULL)"
        )
        with self.workspace.write() as db:
            rows = [self._drawn(row) for row in db.execute(f"SELECT * FROM images WHERE {gone}")]
            db.executemany("DELETE FROM images WHERE id = ?", [(one.id,) for one in rows])
        freed = 0
        for one in rows:
            freed += one.path.stat().st_size if one.path.is_file() else 0
            for path in (one.path, *(self._kept(one.id, size) for size in SIZES)):
                path.unlink(missing_ok=True)
        return len(rows), freed

    def _kept(self, image_id: str, size: int) -> Path:
        return self.workspace.folder("cache", "images", f"{image_id}-{size}.webp")

    def _drawn(self, row: sqlite3.Row) -> Drawn:
        values = dict(row)
        del values["words"]
        values.update(path=self.workspace.root / values.pop("file"), settings=json.loads(values["settings"]))
        return Drawn(**values)


def _condition(text: str, kind: str, trashed: bool) -> tuple[str, list[str]]:
    """SQL for a search, and its values."""
    where, values = [f"trashed IS {'NOT ' * trashed}NULL"], []
    for term in text.casefold().split()[:MAX_TERMS]:
        where.append("instr(words, ?)")
        values.append(term)
    if kind:
        where.append("kind = ?")
        values.append(kind)
    return " AND ".join(where), values
