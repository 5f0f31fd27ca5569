"""Pictures decoded in a process of bounded memory: `python -m studio.decoding`, asked by `studio.ingest`.

A line of JSON in, a line of JSON out, in order. What a hostile file can take or break is this process.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError

MEMORY = 300_000_000
"""Bytes that decoding may take beside what the process has: see `trainers.decoded.MAX_MEMORY`."""
ADDRESSES = 4 << 30
"""Bytes of addresses, for systems that can't bound what is written of them."""
STORED = {
    "PNG": (".png", "image/png"), "JPEG": (".jpg", "image/jpeg"), "MPO": (".jpg", "image/jpeg"),
    "WEBP": (".webp", "image/webp"), "BMP": (".bmp", "image/bmp"), "TIFF": (".tif", "image/tiff"),
    "GIF": (".gif", "image/gif"), "AVIF": (".avif", "image/avif"), "HEIF": (".heic", "image/heic"),
}  # fmt: skip
"""What a file is stored and served as, by its content's format."""
PREVIEW = 1024
"""Longer side in pixels of the WebP that smaller ones are made from."""


def limit(memory: int = MEMORY) -> None:
    """Bound what this process can take, where the system lets it: memory, files, no core dumps."""
    try:
        import resource
    except ImportError:  # Windows: the caps of pixels and of memory by formats remain
        return
    bounds = {resource.RLIMIT_AS: ADDRESSES, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 64 << 20}
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        had = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
        bounds[resource.RLIMIT_DATA] = had + memory
    for name, bound in bounds.items():
        with suppress(ValueError, OSError):
            _, hard = resource.getrlimit(name)
            least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(name, (least, least))


def decode(path: Path, preview: Path | None) -> dict[str, Any]:
    """Read a picture whole, keep a smaller one of it in `preview`, and say what it is.

    Returns: sha256, bytes, width and height upright, notes, suffix of its format, `brightest` 0 … 255.
    Raises: PictureError for what isn't a picture that is read.
    """
    from trainers.images import look_at

    seen = look_at(path, small=PREVIEW)
    source, (suffix, _) = seen.source, STORED[seen.format]
    if preview is not None:
        write_preview(seen.small, preview, PREVIEW)
    return {
        "sha256": source.sha256, "bytes": path.stat().st_size, "width": source.size[0],
        "height": source.size[1], "notes": list(source.notes), "suffix": suffix, "brightest": seen.brightest,
    }  # fmt: skip


def write_preview(picture: Any, target: Path, size: int) -> None:
    """Write a PIL picture as WebP of at most `size` pixels a side, whole or not at all.

    It can be made again, so nothing waits for the disk.
    """
    from PIL import Image

    small = picture.copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        small.save(temporary, format="WEBP", quality=88, method=2)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do what a line asks; an error becomes its line, without the name that stands beside it anyway."""
    path = Path(order["path"])
    try:
        return decode(path, Path(order["preview"]) if order.get("preview") else None)
    except PictureError as error:
        return {"error": str(error).removeprefix(f"picture {path.name!r} ")}
    except MemoryError:
        return {"error": "takes too much memory to decode; save it smaller"}
    except OSError as error:
        return {"error": f"can't be kept: {error.strerror or error}; make room and drop it again"}


def main() -> int:
    """Answer lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    from PIL import Image

    import trainers.images  # noqa: F401 (before the limit: libraries reserve more than they take)

    Image.init()
    with suppress(ImportError, AttributeError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each has buffers of its own
    limit(int(os.environ.get("PIGMENT_DECODING_BYTES", MEMORY)))
    for line in sys.stdin.buffer:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
