"""The library: what comes in, what is refused, names, trash."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines.errors import AdapterError
from pipelines.formats import read_adapter
from studio import examples
from studio import library as library_module
from studio.library import NAME_LENGTH, Library
from studio.workspace import Workspace

MakeAdapter = Callable[..., Path]


@pytest.fixture
def library(workspace: Workspace) -> Library:
    return Library(workspace)


def test_a_file_comes_in_whole(library: Library, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a.safetensors", name="Zib")
    entry, new = library.add(source, check=read_adapter)
    assert new
    assert entry.path.parent == library.workspace.folder("adapters")
    assert entry.path.read_bytes() == source.read_bytes()
    assert entry.sha256 == library_module.file_sha256(source)
    assert entry.rank is not None
    assert entry.info["family"] == "sd15"
    assert library.entries() == [entry]


def test_the_same_file_is_not_copied_twice(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    source = make_adapter(tmp_path / "a.safetensors")
    entry, _ = library.add(source, name="first")
    again, new = library.add(source, name="second")
    assert (again, new) == (entry, False)
    library.trash(entry.id)
    back, new = library.add(source)
    assert (back.id, back.trashed, new) == (entry.id, None, False)
    assert len(list(library.workspace.folder("adapters").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.ckpt", b"\x80\x04", "pickle"),
        ("a.pt", b"PK", "pickle"),
        ("a.zip", b"PK", "not a .safetensors"),
        ("a.safetensors", b"", "a.safetensors"),
        ("a.safetensors", b"\xff" * 64, "a.safetensors"),
        ("missing.safetensors", None, "no file"),
    ],
)
def test_what_is_no_adapter_is_refused_and_nothing_is_kept(
    library: Library, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterError) as refused:
        library.add(tmp_path / name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert library.entries() == []
    assert list(library.workspace.folder("adapters").iterdir()) == []


def test_a_truncated_file_and_a_failing_check_leave_nothing(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    source = make_adapter(tmp_path / "a.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(source.read_bytes()[:-10])
    with pytest.raises(AdapterError):
        library.add(cut)

    def refuse(path: Path) -> None:
        raise AdapterError(f"{path.name} has NaN")

    with pytest.raises(AdapterError, match="NaN"):
        library.add(source, check=refuse)
    assert list(library.workspace.folder("adapters").iterdir()) == []


def test_names_stay_apart(library: Library, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    one, _ = library.add(make_adapter(tmp_path / "1.safetensors", seed=1), name="same")
    two, _ = library.add(make_adapter(tmp_path / "2.safetensors", seed=2), name="same")
    assert (one.name, two.name) == ("same", "same 2")
    with pytest.raises(AdapterError, match="another adapter"):
        library.rename(two.id, "same")
    with pytest.raises(AdapterError, match="empty"):
        library.rename(two.id, "  \n ")
    with pytest.raises(AdapterError, match="characters"):
        library.rename(two.id, "x" * (NAME_LENGTH + 1))
    assert library.rename(two.id, " two\n words ").name == "two words"
    assert library.find("two words") == library.get(two.id)


def test_an_adapter_is_found_by_what_people_call_it(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    library.add_examples()
    mascot = library.get("example-mascot")
    assert library.find("mascot") == library.find("Mascot") == library.find(mascot.slug) == mascot
    own, _ = library.add(make_adapter(tmp_path / "1.safetensors"), name="MASCOT")
    assert library.find("MASCOT") == library.find("mascot") == own  # one's own come before the examples
    assert library.find("nobody") is None


def test_a_hostile_name_is_data_and_never_a_path(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    entry, _ = library.add(make_adapter(tmp_path / "a.safetensors"), name="../../<b>x</b>\u202e.safetensors")
    assert entry.path.parent == library.workspace.folder("adapters")
    assert "/" not in entry.file_name
    assert ".." not in entry.file_name
    assert entry.file_name.isascii()


def test_the_trash_gives_back(library: Library, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    entry, _ = library.add(make_adapter(tmp_path / "a.safetensors", seed=1), name="zib")
    before = library.changes()
    library.trash(entry.id)
    assert library.entries() == []
    assert [one.id for one in library.entries(trashed=True)] == [entry.id]
    assert library.changes() > before
    library.add(make_adapter(tmp_path / "b.safetensors", seed=2), name="zib")
    assert library.restore(entry.id).name == "zib 2"
    assert len(library.entries()) == 2


def test_examples_are_listed_once_without_a_copy(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "examples"
    (folder / "adapters").mkdir(parents=True)
    (folder / "disc").mkdir()
    (folder / "disc" / "1.png").write_bytes(b"x")
    make_adapter(folder / "adapters" / "disc.safetensors")
    one = {
        "id": "disc", "title": "Disc", "kind": "subject", "trigger": "zuv", "class_name": "disc",
        "instance_prompt": "a zuv disc", "pictures": ["1.png", "gone.png"],
        "adapter": "adapters/disc.safetensors",
    }  # fmt: skip
    (folder / "examples.json").write_text(json.dumps({"sets": [one]}))
    monkeypatch.setattr(examples, "EXAMPLES", folder)
    monkeypatch.setattr(examples, "example_sets", partial(examples.example_sets, folder))
    library.add_examples()
    library.add_examples()
    [entry] = library.entries()
    assert (entry.name, entry.origin) == ("Disc", "example")
    assert entry.path == folder / "adapters" / "disc.safetensors"
    assert list(library.workspace.folder("adapters").iterdir()) == []
    library.trash(entry.id)
    library.add_examples()
    assert library.entries() == []
    make_adapter(folder / "adapters" / "disc.safetensors", seed=9)
    library.add_examples()
    assert library.get(entry.id).sha256 == library_module.file_sha256(entry.path)
