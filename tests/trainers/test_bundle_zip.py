"""A bundle's zip: written piece by piece, and read as data that may be hostile; its toml likewise."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError, StudioError
from tests.trainers.bundled import made_up
from trainers import bundle_zip
from trainers.arguments import parser
from trainers.bundle_again import opened, values_of
from trainers.bundle_format import Bundle, as_toml, parse_toml, read_bundle
from trainers.bundle_zip import members_of, pictures_of, unpack, zipped
from trainers.config import preset_config

Zip = Callable[..., Path]
CONTENT = {"pictures/a.png": b"a picture", "pictures/10_zuv/b.png": b"another", "pictures/a.txt": b"words"}
DRAWN = {"key/000.png": b"drawn"}


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()


def _bundle(**data: Any) -> Bundle:
    """A bundle of what is in CONTENT."""
    by_name = {name.removeprefix("pictures/"): _hash(content) for name, content in CONTENT.items()}
    pictures = [
        {"name": name, "sha256": found, "caption": _hash(b"words")}
        for name, found in by_name.items()
        if name.endswith(".png")
    ]
    told = {
        "sha256": _hash(b""), "pictures": pictures, "beside": [{"name": "a.txt", "sha256": by_name["a.txt"]}],
        "drawn": [{"name": name, "sha256": _hash(content)} for name, content in DRAWN.items()],
    }  # fmt: skip
    return made_up(data={**told, **data})


@pytest.fixture
def zip_of(tmp_path: Path) -> Zip:
    """Make a zip of a bundle.toml's text and other members."""

    def make(text: str, members: dict[str, bytes] | None = None) -> Path:
        path = tmp_path / "some bundle.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bundle.toml", text)
            for name, content in (CONTENT if members is None else members).items():
                archive.writestr(name, content)
        return path

    return make


def test_a_zip_with_pictures_holds_all_that_a_run_needs(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache" / "class_pictures"
    for name, content in CONTENT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name, content in DRAWN.items():
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_bytes(content)
        (cache / name).with_name("group.json").write_text("{}")
    (run / "bundle").mkdir(parents=True)
    (run / "adapter.safetensors").write_bytes(b"numbers")
    (run / "evidence.json").write_text("{}")
    made = {"sha256": _hash(b"numbers"), "tensors_sha256": "0" * 64, "bytes": 7, "step": 1}
    bundle = Bundle.model_validate({**_bundle().model_dump(mode="json"), "made": made})
    (run / "bundle" / "bundle.toml").write_text(bundle.as_toml())
    config = preset_config(
        "sketch", "subject", instance_images=tmp_path / "pictures", trigger="zuv", output=run,
        instance_prompt="a zuv disc", cache=tmp_path / "cache",
    )  # fmt: skip
    members = members_of(run, read_bundle(run))
    assert [name for name, _ in members] == ["bundle.toml", "adapter.safetensors", "evidence.json"]
    members += pictures_of(bundle, config)
    pieces = list(zipped(members))
    assert len(pieces) > len(members) and b"".join(pieces) == b"".join(zipped(members))
    path = tmp_path / "it.zip"
    path.write_bytes(b"".join(pieces))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {
            *CONTENT, "cache/class_pictures/key/000.png", "cache/class_pictures/key/group.json",
            "bundle.toml", "adapter.safetensors", "evidence.json",
        }  # fmt: skip
    target = unpack(path, tmp_path / "inputs")
    assert read_bundle(target) == bundle
    for name, content in CONTENT.items():
        assert (target.parent / name).read_bytes() == content
    values = values_of(bundle, target)
    assert values["data"]["instance_images"] == str(target.parent / "pictures")
    assert values["run"]["cache"] == str(target.parent / "cache")  # not the one that other runs trust
    sealed = json.loads((target.parent / "cache" / "class_pictures" / "key" / "group.json").read_text())
    assert sealed["sha256"] == {"000.png": _hash(b"drawn")}
    (tmp_path / "pictures" / "a.png").write_bytes(b"changed")
    with pytest.raises(StudioError, match=r"'a.png' isn't what was learned from"):
        pictures_of(bundle, config)
    (run / "adapter.safetensors").write_bytes(b"others")
    with pytest.raises(StudioError, match="missing, or not the one of the bundle"):
        members_of(run, bundle)


def test_a_zip_is_unpacked_into_the_new_runs_folder_once(zip_of: Zip, tmp_path: Path) -> None:
    path = zip_of(_bundle().as_toml())
    asked = parser("x").parse_args([str(path), "--output", str(tmp_path / "again")])
    assert opened(asked) == _bundle() and asked.config == tmp_path / "again" / "inputs" / "bundle.toml"
    mark = tmp_path / "again" / "inputs" / "cache" / "mark"
    mark.parent.mkdir()
    mark.touch()
    assert unpack(path, tmp_path / "again" / "inputs") == asked.config and mark.exists()
    other = zip_of(_bundle(sha256=_hash(b"other")).as_toml())
    assert unpack(other, tmp_path / "again" / "inputs") == asked.config and not mark.exists()


def test_what_the_bundle_does_not_name_is_not_unpacked(zip_of: Zip, tmp_path: Path) -> None:
    more = {**CONTENT, "../out.txt": b"x", "/abs.txt": b"x", "pictures/more.png": b"x", "x.pkl": b"x"}
    unpack(zip_of(_bundle().as_toml(), more), tmp_path / "inputs")
    found = {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file()}
    assert found == {"some bundle.zip", "inputs/bundle.toml", *(f"inputs/{name}" for name in CONTENT)}


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "a/../../b.png", "", ".", "a\0b", "a//b.png", "1/2/3/4/5"]
)
def test_names_that_lead_out_are_refused(zip_of: Zip, tmp_path: Path, name: str) -> None:
    text = _bundle().as_toml().replace('name = "a.png"', f"name = {json.dumps(name)}")
    with pytest.raises(ConfigError, match=r"is no whole bundle: data\.pictures\.0\.name"):
        unpack(zip_of(text), tmp_path / "inputs")
    assert not (tmp_path / "inputs").exists()


def test_zips_that_lie_are_refused_in_one_line(
    zip_of: Zip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            unpack(path, tmp_path / "inputs")
        assert "\n" not in str(caught.value)

    text = _bundle().as_toml()
    refused(zip_of(text, {**CONTENT, "pictures/a.png": b"a bicture"}), "isn't what its bundle.toml says")
    assert not (tmp_path / "inputs" / "bundle.toml").exists()
    path = zip_of(text)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    refused(path, "is no zip, or is damaged")
    at = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[:at] + b"XX" + whole[at + 2 :])
    refused(path, "is damaged")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    refused(path, "has no bundle.toml")
    monkeypatch.setattr(bundle_zip, "TOTAL_BYTES", 10)
    refused(zip_of(text), "unpacks to more than")
    monkeypatch.setattr(bundle_zip, "MEMBERS", 2)
    refused(zip_of(text), "has more than 2 files")


# ── The file


def test_toml_says_everything_again() -> None:
    values = {
        "a": 'quote " back \\ line\n tab\t del\x7f nul-ish \x01 “ü” 🐙', "b": 1e-05, "c": [1, [2.5, "x"]],
        "d": True, "e": None, "t": {"odd key": 1, "in": {"k": "v"}}, "rows": [{"n": "x", "m": 2}, {"n": "y"}],
        "none": [],
    }  # fmt: skip
    expected = {name: value for name, value in values.items() if value is not None}
    assert tomllib.loads(as_toml(values)) == expected


def test_a_bundle_is_read_back_and_a_strange_one_refused_in_one_line() -> None:
    bundle = _bundle()
    assert parse_toml(bundle.as_toml().encode(), "b") == bundle
    for content, words in (
        (bundle.as_toml().replace("bundle = 1", "bundle = 2").encode(), "of version 2"),
        (bundle.as_toml().replace("[made]", "[made]\nmore = 1").encode(), "is no whole bundle: made.more"),
        (b"bundle = [", "isn't TOML"),
        (b"\xff", "isn't TOML"),
        (b"#" * 32_000_001, "has more than"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            parse_toml(content, "b")
        assert "\n" not in str(caught.value)
