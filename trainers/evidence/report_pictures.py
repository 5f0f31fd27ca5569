"""Pictures inside a page: small, as data: addresses, with a fold that shows one large without a script."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from trainers.run_folder import CONFIG_NAME

PIXELS = 64_000_000
"""Larger pictures are left out of a report."""


@dataclass(frozen=True)
class Size:
    """How large pictures are put in: the longer side in pixels of large and small ones, WebP's quality."""

    large: int
    small: int
    quality: int


SIZES = (Size(768, 256, 84), Size(512, 208, 80), Size(384, 160, 74), Size(256, 128, 66), Size(160, 96, 55))
"""What is tried in turn until a report is small enough."""


@dataclass
class Pictures:
    """The pictures of a run's folder."""

    folder: Path
    size: Size = SIZES[0]
    _known: dict[tuple[Path, int], str] = field(default_factory=dict)

    def drawn(self, name: str, alt: str, *, small: bool = False) -> str:
        """The picture at a path below the folder as HTML; empty where it isn't there."""
        path = below(self.folder, name)
        return self._html(path, alt, small) if path is not None else ""

    def learned(self, name: str, alt: str) -> str:
        """A picture that was learned from, by its name; empty where it has been moved away."""
        places = [self.folder, self.folder / "evidence", self._taught()]
        found = (below(place, name) for place in places if place is not None)
        path = next((one for one in found if one is not None), None)
        return self._html(path, alt, False) if path is not None else ""

    def _taught(self) -> Path | None:
        """The folder of the pictures that were learned from."""
        try:
            said = json.loads((self.folder / CONFIG_NAME).read_text(encoding="utf-8"))
            return Path(said["data"]["instance_images"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _html(self, path: Path, alt: str, small: bool) -> str:
        side = self.size.small if small else self.size.large
        if (path, side) not in self._known:
            self._known[path, side] = address(path, side, self.size.quality)
        source, said = self._known[path, side], escape(alt)
        if not source:
            return ""
        label = f'<input type="checkbox" aria-label="Large: {said}">'
        return f'<label class="zoom">{label}<img src="{source}" alt="{said}"></label>'


def below(folder: Path, name: str) -> Path | None:
    """The file at a relative path below a folder; None where there is none, or it lies elsewhere."""
    try:
        path = (folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):
        return None


def address(path: Path, side: int, quality: int) -> str:
    """A picture as a data: address, its longer side at most `side` pixels; empty where it can't be read."""
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > PIXELS:
                return ""
            opened.draft("RGB", (side, side))
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
