"""Files of every kind say how they were made, and broken ones say so in one line."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.errors import PictureError
from pipelines.generation import GenerationConfig
from pipelines.parameters import restore
from pipelines.parameters.reading import MAX_SIDE
from pipelines.picture import Picture, read_settings

TEXT = "a cat, 猫\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768"
GRAPH = json.dumps(
    {
        "1": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["2", 0]}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog"}},
    }
)


def png(path: Path, *, compressed: bool = False, kind: str = "itxt", **texts: str) -> Path:
    info = PngInfo()
    for key, text in texts.items():
        if kind == "itxt":
            info.add_itxt(key, text, zip=compressed)
        else:
            info.add_text(key, text, zip=compressed)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def with_comment(path: Path, comment: bytes) -> Path:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    exif[0x0131] = "a program"  # Pillow's PNG writer takes data without such a tag for empty
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


def settings(version: int | None = 2, **fields: Any) -> dict[str, Any]:
    config = GenerationConfig.model_validate(
        {
            "prompt": "a {cat} <lora:no:1>",
            "width": 64,
            "height": 64,
            "seed": 2**53 - 1,
            "adapters": [{"name": "ink", "sha256": "ab" * 32, "weight": 0.8, "text_weight": 0.1}],
            **fields,
        }
    )
    found = {
        "version": version,
        "generation": config.model_dump(mode="json"),
        "base": {"ref": "x.safetensors", "sha256": "cd" * 32, "family": "sd15", "prediction_type": "epsilon"},
        "libraries": {"torch": "2"},
        "notes": ["width 60 was rounded to 64"],
    }
    return found if version else {key: value for key, value in found.items() if key != "version"}


@pytest.mark.parametrize("kind", ["itxt", "text"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a1111s_png(tmp_path: Path, kind: str, compressed: bool, ascii_only: bool) -> None:
    text = TEXT.replace("猫", "cat" if ascii_only or kind == "text" else "猫")
    found = restore(png(tmp_path / "p.png", kind=kind, compressed=compressed, parameters=text))
    assert found.source == "a1111"
    assert found.fields["prompt"] == text.splitlines()[0]
    assert found.fields["sampler"] == "euler_a"


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-be"),
        b"UNICODE\0" + TEXT.encode("utf-16-le"),
        b"UNICODE\0" + TEXT.encode("utf-16"),
        b"ASCII\0\0\0" + TEXT.encode(),
        b"\0" * 8 + TEXT.encode(),
        TEXT.encode(),
    ],
)
def test_an_exif_comment(tmp_path: Path, ending: str, comment: bytes) -> None:
    found = restore(with_comment(tmp_path / f"p.{ending}", comment))
    assert found.fields["prompt"] == "a cat, 猫"
    assert found.fields["height"] == 768


def test_comfyuis_png(tmp_path: Path) -> None:
    found = restore(png(tmp_path / "p.png", kind="text", prompt=GRAPH, workflow="{}"))
    assert found.source == "comfyui"
    assert found.fields == {"prompt": "a dog", "negative_prompt": "", "seed": 5}


def test_comfyuis_graph_in_a_comment(tmp_path: Path) -> None:
    beside = json.dumps({"prompt": json.loads(GRAPH), "workflow": {}})
    found = restore(with_comment(tmp_path / "p.webp", b"UNICODE\0" + beside.encode("utf-16-be")))
    assert found.source == "comfyui"
    assert found.fields["prompt"] == "a dog"


def test_pigments_own_go_before_a1111s_text(tmp_path: Path) -> None:
    asked = settings(hires_scale=2.0, hires_upscaler="lanczos", eta=0.5)
    Picture(Image.new("RGB", (64, 64)), asked, 0).save(tmp_path / "p.png")
    found = restore(tmp_path / "p.png")
    assert found.source == "pigment"
    assert GenerationConfig.model_validate(found.fields) == GenerationConfig.model_validate(
        asked["generation"]
    )
    assert astuple(found.base) == ("x.safetensors", "cd" * 32, None)
    assert [astuple(hint) for hint in found.adapters] == [("ink", "ab" * 32, 0.8, 0.1)]
    assert found.left_over == {}
    assert read_settings(tmp_path / "p.png") == asked


@pytest.mark.parametrize("version", [1, 2, None])
def test_settings_of_every_version_are_read(tmp_path: Path, version: int | None) -> None:
    asked = settings(version, negative_prompt="[bad]")
    path = png(tmp_path / "p.png", pigment=json.dumps(asked))
    if version != 2:  # then, prompts were drawn as they stood
        asked["generation"] |= {"prompt": "a \\{cat\\} <\\lora:no:1>", "negative_prompt": "\\[bad\\]"}
    assert read_settings(path) == asked
    assert restore(path).fields["seed"] == 2**53 - 1


@pytest.mark.parametrize("version", [3, 0, "2", [1]])
def test_settings_of_a_version_that_is_not_known_are_refused(tmp_path: Path, version: Any) -> None:
    path = png(tmp_path / "p.png", pigment=json.dumps({**settings(), "version": version}))
    for read in (read_settings, restore):
        with pytest.raises(PictureError, match="version"):
            read(path)


def test_a_field_that_is_not_known_is_left_over(tmp_path: Path) -> None:
    asked = settings()
    asked["generation"] |= {"later": 7, "guidance_scale": 99}
    found = restore(png(tmp_path / "p.png", pigment=json.dumps(asked)))
    assert found.left_over == {"later": "7", "guidance_scale": "99"}
    assert found.fields["prompt"] == asked["generation"]["prompt"]


def test_a_text_behind_the_pixels_is_found(tmp_path: Path) -> None:
    data = png(tmp_path / "p.png").read_bytes()
    body = b"tEXt" + b"parameters\0" + TEXT.replace("猫", "").encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = data.index(b"IEND") - 4
    (tmp_path / "p.png").write_bytes(data[:end] + chunk + data[end:])
    assert restore(tmp_path / "p.png").fields["width"] == 512


def refused(path: Path, match: str) -> None:
    with pytest.raises(PictureError, match=match) as caught:
        restore(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert str(path.parent) not in str(caught.value)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "no such file")
    (tmp_path / "text.png").write_text("hello")
    refused(tmp_path / "text.png", "isn't a readable")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "isn't a readable")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "isn't a readable")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    refused(tmp_path / "a.gif", "isn't a readable")
    refused(png(tmp_path / "silent.png"), "doesn't say how it was made")
    refused(png(tmp_path / "other.png", parameters='{"sui_image_params": {}}'), "doesn't say how it was made")
    refused(png(tmp_path / "odd.png", pigment="{"), "aren't readable")
    refused(png(tmp_path / "deep.png", pigment="[" * 100_000), "aren't readable")
    refused(png(tmp_path / "graph.png", prompt="{"), "ComfyUI")


def test_every_truncation_is_one_line_or_read(tmp_path: Path) -> None:
    whole = png(tmp_path / "p.png", parameters=TEXT).read_bytes()
    commented = with_comment(tmp_path / "p.jpg", b"UNICODE\0" + TEXT.encode("utf-16-be")).read_bytes()
    outcomes: set[str] = set()
    for data in (whole, commented):
        for length in range(0, len(data), 7):
            (tmp_path / "cut").write_bytes(data[:length])
            try:
                outcomes.add(restore(tmp_path / "cut").source)
            except PictureError as error:
                outcomes.add("refused")
                assert "\n" not in str(error)
    assert outcomes == {"a1111", "refused"}


def _header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_bombs_are_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idat = b"IDAT" + zlib.compress(b"\0" * 10_000_000)
    tail = struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    for width, height in ((MAX_SIDE + 1, 1), (30_000, 30_000)):
        (tmp_path / "bomb.png").write_bytes(_header(width, height) + tail)
        refused(tmp_path / "bomb.png", "a side|isn't a readable")
    (tmp_path / "bomb.png").write_bytes(_header(9000, 9000) + tail)
    with monkeypatch.context() as patched:
        patched.setattr(
            "PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("its pixels are decoded")
        )
        refused(tmp_path / "bomb.png", "doesn't say how")


def test_long_texts_are_refused(tmp_path: Path) -> None:
    refused(png(tmp_path / "long.png", parameters="x" * 1_000_001), "at most 1000000|isn't a readable")
    refused(
        png(tmp_path / "zip.png", parameters="x" * 50_000_000, compressed=True),
        "at most 1000000|isn't a readable",
    )
