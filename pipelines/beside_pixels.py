"""How much a PNG says beside its pixels, which Pillow reads whole before anyone can look at it."""

from __future__ import annotations

import io
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = b"IDAT"


def bytes_beside_pixels(file: BinaryIO) -> int:
    """Bytes of a PNG's chunks that aren't pixels, by the lengths that it says; 0 for any other file."""
    file.seek(0)
    said, begin = 0, file.read(8)
    while begin == _PNG and len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4])
        said += length if head[4:] != _PIXELS else 0
        file.seek(length + 4, io.SEEK_CUR)
    return said
