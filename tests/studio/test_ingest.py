"""What is dropped: taken, or refused with the reason, whatever it is and is called."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio import archives, decoder, decoding
from studio.archives import unpack
from studio.datasets import Dataset, Datasets, Taken
from studio.decoder import Decoder
from studio.dropped import Dropped, key, one_name, sort
from studio.ingest import Ingest
from studio.pictures import Pictures
from studio.workspace import Workspace


def png(
    colour: str | int | tuple[int, ...] = "red",
    size: tuple[int, int] = (24, 16),
    mode: str = "RGB",
    **more: object,
) -> bytes:
    """A small picture's file."""
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, format="PNG")
    return content.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animated() -> bytes:
    """A GIF of two frames."""
    content, frames = io.BytesIO(), [Image.new("RGB", (8, 8), one) for one in ("red", "blue")]
    frames[0].save(content, format="GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


def rotated() -> bytes:
    """A JPEG that lies on its side."""
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10), "teal").save(content, format="JPEG", exif=exif)
    return content.getvalue()


def converted(mode: str, format: str) -> bytes:
    """A picture in another mode and format."""
    content = io.BytesIO()
    colour = np.random.default_rng(len(mode + format)).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colour).convert(mode).save(content, format=format)
    return content.getvalue()


GOOD = {
    "plain.png": png(),
    "on its side.jpg": rotated(),
    "sixteen.png": png(60000, mode="I;16"),
    "clear.png": png((0, 0, 255, 90), mode="RGBA"),
    "print.jpg": converted("CMYK", "JPEG"),
    "palette.png": converted("P", "PNG"),
    "gray.tif": converted("L", "TIFF"),
    "really a png.jpg": png("gold"),
    "no ending": png("navy"),
    "../../etc/passwd.png": png("pink"),
    "C:\\Users\\me\\win.png": png("lime"),
    "a\nb\x1b[31m<script>alert(1)<script>.png": png("olive"),
    "猫" * 300 + ".png": png("plum"),
    "x" * 400 + ".webp": converted("RGB", "WEBP"),
}
BAD = {
    "cut.png": (png("tan", (64, 64))[:90], "is damaged"),
    "bomb.png": (bomb(30000, 30000), "is too large; expected at most 64 million"),
    "small bomb.png": (bomb(10000, 10000), "has 10000×10000 pixels; expected at most 64 million"),
    "words.png": (b"not a picture at all", "isn't a picture"),
    "empty.png": (b"", "is empty"),
    "moving.gif": (animated(), r"is animated \(2 frames\)"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "is HEIC, which needs"),
    "drawing.eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "isn't a picture"),
    "layers.psd": (b"8BPS", "is in a format that isn't read; save it as PNG"),
    "holiday.rar": (b"Rar!", "is an archive that isn't read"),
    "model.ckpt": (b"\x80\x02", "is a model, no picture"),
    "film.mp4": (b"", "is a film"),
    "twin.png": (GOOD["plain.png"], "is the same picture as 'plain.png', which is there; once is enough"),
    "alone.txt": (b"a caption", "has no picture of its name"),
    "latin.txt": ("Käse".encode("latin-1"), "isn't UTF-8 text"),
    "plain.mask.png": (png(255, (9, 90), "L"), "is a mask of 9×90 for a picture of 24×16"),
    "gray.mask.png": (png(0, (8, 8), "L"), "leaves nothing to learn from"),
}
BESIDE = {
    "latin.png": png("peru"),
    "plain.txt": b"\xef\xbb\xbfa red\r\n\r\n  picture\x00 <b>of</b> nothing ",
    "palette.mask.PNG": png(200, (8, 8), "L"),
}


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Datasets, Dataset, Taken]:
    """All of the above, dropped at once."""
    root = tmp_path_factory.mktemp("dropped")
    files: list[tuple[Path, str]] = []
    for name, content in (GOOD | BESIDE | {name: content for name, (content, _) in BAD.items()}).items():
        path = root / f"{len(files)}"
        path.write_bytes(content)
        files.append((path, name))
    datasets = Datasets(Workspace.open(root / "workspace", own=False))
    made = datasets.new()
    taken = datasets.take(made.id, [*files, (root / "missing", "gone.png")])
    return datasets, datasets.get(made.id), taken


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_reason(name: str, dropped: tuple[Datasets, Dataset, Taken]) -> None:
    refused = [one for one in dropped[2].refused if one.name == name]
    assert len(refused) == 1
    assert re.search(BAD[name][1], refused[0].reason), refused[0].reason
    assert "\n" not in refused[0].line() and str(dropped[0].workspace.root) not in refused[0].line()


def test_nothing_else_is_refused_and_all_others_are_there(dropped: tuple[Datasets, Dataset, Taken]) -> None:
    _, dataset, taken = dropped
    assert {one.name for one in taken.refused} == {*BAD, "gone.png"}
    assert taken.added == len(GOOD) + 1 == len(dataset.items)
    assert [item.position for item in dataset.items] == list(range(taken.added))


def test_names_are_data_on_one_line_and_files_are_called_by_content(
    dropped: tuple[Datasets, Dataset, Taken],
) -> None:
    datasets, dataset, _ = dropped
    names = {item.name for item in dataset.items}
    assert {"passwd.png", "win.png"} <= names
    assert any("<script>" in name and "\n" not in name and "\x1b" not in name for name in names)
    assert all(len(name) <= 255 for name in names)
    for path in datasets.workspace.folder("pictures").iterdir():
        assert len(path.stem) == 64 and path.suffix in (".png", ".jpg", ".tif", ".webp")
    assert not list(datasets.workspace.folder("cache", "pictures").glob("drop-*"))


def test_pictures_are_upright_and_what_was_done_is_said(dropped: tuple[Datasets, Dataset, Taken]) -> None:
    items = {item.name: item for item in dropped[1].items}
    assert (items["on its side.jpg"].width, items["on its side.jpg"].height) == (10, 30)
    small = dropped[0].pictures.small(items["on its side.jpg"].sha256, 100)
    assert Image.open(small).size == (10, 30)
    stored = dropped[0].pictures.get(items["really a png.jpg"].sha256)
    assert stored.path.suffix == ".png" and stored.media == "image/png"


def test_captions_and_masks_find_their_pictures(dropped: tuple[Datasets, Dataset, Taken]) -> None:
    items = {item.name: item for item in dropped[1].items}
    assert items["plain.png"].caption == "a red picture <b>of</b> nothing"
    assert items["latin.png"].caption == "" and items["plain.png"].mask == "" == items["gray.tif"].mask
    mask = dropped[0].pictures.get(items["palette.png"].mask)
    assert (mask.width, mask.height) == (8, 8)
    assert "1 mask came along" in " ".join(dropped[2].notes)


def test_no_pixel_of_a_bomb_is_decoded(dropped: tuple[Datasets, Dataset, Taken]) -> None:
    """The child is still the first one: nothing of the above broke it."""
    log = dropped[0].workspace.folder("cache", "decoding.log")
    assert log.read_text() == ""


# ── The limited process


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("addresses are limited on Linux")
    path = tmp_path / "a"
    path.write_bytes(png("red", (2000, 2000)))
    monkeypatch.setenv("PIGMENT_DECODING_BYTES", str(1 << 20))
    child = Decoder(tmp_path / "log")
    said = child.ask(path, None)["error"]
    child.close()
    assert "memory" in said.lower() or "broke the decoder" in said


def test_a_table_that_is_too_large_is_not_read(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    with (tmp_path / "a").open("wb") as file:
        file.truncate(21_000_000)
    datasets = Datasets(workspace)
    taken = datasets.take(datasets.new().id, [(tmp_path / "a", "metadata.jsonl")])
    assert [one.line() for one in taken.refused] == [
        "metadata.jsonl: has more than 20000000 bytes; make it smaller"
    ]


def test_small_pictures_are_made_anew_in_the_decoder(
    dropped: tuple[Datasets, Dataset, Taken], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, dataset, _ = dropped
    sha256 = next(item.sha256 for item in dataset.items if item.name == "plain.png")
    datasets.pictures.preview(sha256).unlink()
    monkeypatch.setattr("trainers.images.look_at", lambda *_, **__: pytest.fail("was decoded here"))
    assert Image.open(datasets.pictures.small(sha256, 128)).size == (24, 16)


def test_time_is_limited_and_the_next_picture_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(png())
    child = Decoder(tmp_path / "log", 0.001)
    assert "took more than" in child.ask(path, None)["error"]
    child._seconds = 60.0
    assert child.ask(path, None)["width"] == 24
    child.close()


def test_a_picture_that_ends_the_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = decoder.processes.spawn
    monkeypatch.setattr(
        decoder.processes, "spawn", lambda module, **pipes: spawn("json.tool", "/nonexistent", **pipes)
    )
    child = Decoder(tmp_path / "log")
    assert "broke the decoder" in child.ask(tmp_path / "a", None)["error"]


def test_errors_of_the_disk_and_of_memory_are_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def huge(*_: object) -> None:
        raise MemoryError

    order = {"path": str(tmp_path / "a"), "preview": str(tmp_path / "b")}
    monkeypatch.setattr(decoding, "decode", full)
    assert "No space left on device; make room" in decoding.answer(order)["error"]
    monkeypatch.setattr(decoding, "decode", huge)
    assert "too much memory" in decoding.answer(order)["error"]


def test_a_full_disk_refuses_and_leaves_nothing(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    class Answers:
        def ask(self, path: Path, preview: Path) -> dict[str, object]:
            found = {"sha256": "0" * 64, "suffix": ".png", "bytes": 9, "width": 9, "height": 9}
            return {**found, "notes": [], "brightest": 9}

    (tmp_path / "a").write_bytes(png())
    monkeypatch.setattr("studio.pictures.write_atomic", full)
    taking = Ingest(Pictures(workspace), tmp_path, Answers())  # type: ignore[arg-type]
    good, rest = taking.take([Dropped(tmp_path / "a", "a.png")])
    assert not good and rest.refused[0].line() == (
        "a.png: can't be kept (No space left on device); make room and drop it again"
    )
    path = zipped(tmp_path / "b.zip", {"a.png": png()})
    monkeypatch.setattr(archives.zipfile.ZipFile, "open", full)
    _, rest = taking.take([Dropped(path, "b.zip")])
    assert "more room than the disk has" in rest.refused[0].reason


# ── Zips


def zipped(path: Path, members: dict[str, bytes], **more: Any) -> Path:
    """Write a zip; returns its path."""
    with zipfile.ZipFile(path, "w", **more) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=more.get("compression", 0))
    return path


TABLE = b'{"file": "a.png", "text": "x"}\n{"file": "b.png", "text": "from a table"}\n'


def test_a_zip_is_taken_with_captions_masks_and_tables(workspace: Workspace, tmp_path: Path) -> None:
    datasets = Datasets(workspace)
    path = zipped(
        tmp_path / "0",
        {
            "set/a.png": png("red"), "set/a.txt": b"from a file", "set/masks/a.png": png(255, mode="L"),
            "set/b.png": png("blue"), "other/b.png": png("cyan"), "other/b.txt": b"the other b",
            "set/metadata.jsonl": TABLE,
            "__MACOSX/set/._a.png": b"x", "set/.DS_Store": b"x", "10_zuv dog/c.png": png("lime"),
            "../../up.png": png("navy"), "/abs.png": png("teal"), "readme.md": b"# hi", "deep.zip": b"PK",
        },
    )  # fmt: skip
    made = datasets.new()
    taken = datasets.take(made.id, [(path, "My set.ZIP")])
    items = datasets.get(made.id).items
    assert [(item.name, item.caption) for item in items] == [
        ("a.png", "from a file"), ("b.png", "from a table"), ("b.png", "the other b"), ("c.png", ""),
        ("up.png", ""), ("abs.png", ""),
    ]  # fmt: skip
    assert items[0].mask and not items[1].mask
    assert {one.name for one in taken.refused} == {"My set.ZIP/readme.md", "My set.ZIP/deep.zip"}
    assert any("10_zuv dog" in note for note in taken.notes)
    assert not (tmp_path.parent / "up.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "workspace"]


def refusals(path: Path, folder: Path) -> dict[str, str]:
    """What of a zip is refused, by name."""
    folder.mkdir(exist_ok=True)
    return {one.name: one.reason for one in unpack(path, folder) if one.path is None}


def test_bombs_links_and_locked_members_are_refused(tmp_path: Path) -> None:
    packed = {"compression": zipfile.ZIP_DEFLATED}
    path = zipped(tmp_path / "a.zip", {"bomb.png": bytes(20 << 20), "fine.png": png()}, **packed)
    folder = tmp_path / "out"
    assert list(refusals(path, folder)) == ["bomb.png"]
    assert "100 times its size" in refusals(path, folder)["bomb.png"]
    assert all(one.stat().st_size < 1000 for one in folder.iterdir()), "nothing of the bomb stays"

    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(zipfile.ZipInfo("odd.png"), png(), compress_type=zipfile.ZIP_LZMA)
    said = refusals(tmp_path / "b.zip", folder)
    assert "is a link" in said["link.png"] and "packed in a way" in said["odd.png"]

    content = bytearray(zipped(tmp_path / "c.zip", {"locked.png": png()}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "c.zip").write_bytes(content)
    assert "make the zip without one" in refusals(tmp_path / "c.zip", folder)["locked.png"]


def test_what_a_zip_says_of_sizes_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of members promises 10 bytes; 3 MB come out."""
    path = zipped(tmp_path / "a.zip", {"a.png": bytes(3 << 20)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(content)
    (tmp_path / "out").mkdir()
    found = list(unpack(path, tmp_path / "out"))
    assert found[0].path is None or found[0].path.stat().st_size <= 10
    monkeypatch.setattr(archives, "TOTAL", 1000)
    path = zipped(tmp_path / "b.zip", {"a.png": bytes(600), "b.png": bytes(600)})
    with pytest.raises(Exception, match="unpacks to more than"):
        list(unpack(path, tmp_path / "out"))


END = b"PK\x05\x06"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no zip at all", "is damaged or no zip"),
        (
            b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0),
            "more than 4000",
        ),
        (b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 500, 0, 0), "is damaged"),
    ],
)
def test_a_broken_or_boundless_zip_is_refused_whole(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(Exception, match=reason):
        list(unpack(tmp_path / "a.zip", tmp_path))


def test_every_byte_flipped_gives_a_line_or_the_picture(tmp_path: Path) -> None:
    """Whatever is damaged: a reason, or a member; never another exception."""
    from pipelines.errors import PictureError

    whole = zipped(tmp_path / "a.zip", {"a.png": png(), "b.txt": b"hello"}).read_bytes()
    (tmp_path / "out").mkdir()
    for at in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            for one in unpack(tmp_path / "a.zip", tmp_path / "out"):
                assert (one.path is None) == bool(one.reason)
        except PictureError as error:
            assert "\n" not in str(error)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("a.zip", "out")]


# ── Names


def test_no_more_is_kept_than_a_set_holds(workspace: Workspace, tmp_path: Path) -> None:
    """A thousandth picture too many would lie in the workspace for ever, in no set."""
    files = []
    for number in range(4):
        (tmp_path / str(number)).write_bytes(png((number, 0, 0)))
        files.append((tmp_path / str(number), f"{number}.png"))
    datasets = Datasets(workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studio.dropping.MAX_PICTURES", 2)
        taken = datasets.take(datasets.new().id, [*files, (tmp_path / "0", "again.png")])
    assert taken.added == 2
    assert [one.name for one in taken.refused] == ["2.png", "3.png", "again.png"]
    assert "is the same picture as '0.png'" in taken.refused[2].reason
    assert len(list(workspace.folder("pictures").iterdir())) == 2


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    from tests.faults.pictures_parcels import parcels

    bomb = next(one for one in parcels() if one.name == "overlapping")
    (tmp_path / "a").write_bytes(bomb.files["o.zip"]())
    with pytest.raises(Exception, match="its files overlap, as bombs do"):
        list(unpack(tmp_path / "a", tmp_path))


def test_names_are_cut_to_their_last_part() -> None:
    assert one_name("gnp.\u202etxt.exe") == "gnp.txt.exe", "nothing turns round what stands after it"
    assert one_name("a/b\\c.png") == "c.png" and one_name("../..") == ".." and one_name("\0\n") == "nameless"
    assert one_name("ä" * 300 + ".jpeg").endswith("….jpeg") and len(one_name("ä" * 300 + ".jpeg")) == 255
    assert key("x", "A.Mask.PNG") == key("x", "a.jpg") != key("y", "a.jpg")


def test_a_folder_called_masks_by_itself_holds_pictures() -> None:
    found = sort([Dropped(Path("0"), "a.png", "masks"), Dropped(Path("1"), "a.png", "set/masks")])
    assert [one.place for one in found.pictures] == ["masks"]
    assert list(found.masks) == [("set", "a")]
