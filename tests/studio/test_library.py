"""The library: what comes in, what is refused, names, trash."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import AdapterError, ConfigError, PictureError
from pipelines.formats import read_adapter
from studio import examples
from studio import library as library_module
from studio.amending import amend, check
from studio.covers import cover_file, set_cover
from studio.library import NAME_LENGTH, Library
from studio.searching import Query
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


def fill(library: Library, number: int) -> None:
    """Rows without files of their own, as a big library has them."""
    path = library.workspace.folder("adapters", "x.safetensors")
    path.write_bytes(b"x")
    for place in range(number):
        info = {"family": "sdxl" if place % 2 else "sd15", "method": "lora", "bytes": place + 1,
                "triggers": [f"word{place}"], "metadata": {"long": "x" * 10_000, "short": "y"}}  # fmt: skip
        library._insert(
            f"{place:x}",
            f"Größe {place:02d}",
            info,
            file="workspace:adapters/x.safetensors",
            origin="imported",
        )


def test_search_takes_all_words_in_any_case_and_every_filter(library: Library) -> None:
    fill(library, 30)
    library.tag("3", ["Ink", "ink ", "#Mine, own"])
    library.note("4", "for the WINTER cards")
    assert library.get("3").tags == ("Ink", "Mine own")

    def names(**asked: Any) -> list[str]:
        return [entry.name for entry in library.search(Query(**asked)).entries]

    assert names(words="GRÖSSE 07") == ["Größe 07"] == names(words="word7")
    assert names(words="winter") == ["Größe 04"] and names(words="winter 05") == []
    assert names(tag="ink") == ["Größe 03"] == names(words="mine", family="sdxl")
    assert names(words="mine", family="sd15") == []
    assert names(sort="largest")[0] == "Größe 29" and names(sort="name")[0] == "Größe 00"
    assert len(names(family="sd15")) == 15 and names(origin="made") == []
    found = library.search(Query(page=99))
    assert (found.total, found.page, found.pages, len(found.entries)) == (30, 1, 2, 6)
    facets = library.facets()
    assert facets.family == {"sd15": 15, "sdxl": 15} and facets.tag == {"Ink": 1, "Mine own": 1}
    library.trash("3")
    assert names(tag="ink") == [] and names(trashed=True) == ["Größe 03"] and library.facets().trashed == 1
    with pytest.raises(ConfigError, match="newest"):
        library.search(Query(sort="new"))
    assert "long" not in library.get("4").info["metadata"], "rows stay small"


def test_tags_and_notes_have_bounds(library: Library) -> None:
    fill(library, 1)
    with pytest.raises(AdapterError, match="shorten"):
        library.tag("0", ["x" * 40])
    with pytest.raises(AdapterError, match="too many"):
        library.tag("0", [str(number) for number in range(40)])
    with pytest.raises(AdapterError, match="notes"):
        library.note("0", "x" * 5000)


def test_an_older_index_is_filled_in(library: Library) -> None:
    fill(library, 2)
    with library.workspace.write() as db:
        db.execute("UPDATE adapters SET words = '', family = '', method = '', bytes = 0")
    library.add_examples()
    entry = library.get("1")
    assert (entry.family, entry.method, entry.bytes) == ("sdxl", "lora", 2)
    assert [one.id for one in library.search(Query(words="word1 größe")).entries] == ["1"]


def test_the_trash_is_emptied_for_good(library: Library, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    library.add_examples()
    one = library.add(make_adapter(tmp_path / "1.safetensors", seed=1))[0]
    two = library.add(make_adapter(tmp_path / "2.safetensors", seed=2))[0]
    for gone in (one.id, "example-mascot"):
        library.trash(gone)
    assert library.empty_trash() == 1
    assert not one.path.exists() and two.path.exists()
    assert [entry.id for entry in library.entries(trashed=True)] == ["example-mascot"]


def test_what_a_file_says_is_changed_in_it(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    entry = library.add(make_adapter(tmp_path / "1.safetensors"))[0]
    before = read_adapter(entry.path)
    amended = amend(library, entry.id, {"triggers": "zuv, ink", "author": "Ada"})
    after = read_adapter(amended.path)
    assert after.triggers == ("zuv", "ink") == tuple(amended.triggers)
    assert after.metadata["modelspec.author"] == "Ada" and after.factors.keys() == before.factors.keys()
    assert amended.sha256 == library_module.file_sha256(amended.path) != entry.sha256
    assert library.by_hash(entry.sha256) == amended == library.by_hash(amended.sha256)
    assert library.search(Query(words="ada")).total == 1
    check(amended)
    with pytest.raises(AdapterError, match="unknown metadata field"):
        amend(library, entry.id, {"colour": "red"})
    amended.path.write_bytes(amended.path.read_bytes()[:-1] + b"?")
    with pytest.raises(AdapterError, match="has changed"):
        check(amended)


def test_what_ends_between_a_file_and_its_row_leaves_what_was_there(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path, pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    entry = library.add(make_adapter(tmp_path / "1.safetensors"))[0]
    set_cover(library, entry.id, pictures[0])
    there = library.get(entry.id)

    class Killed(BaseException):
        """Neither kind of `except` of ours handles it."""

    def killed(*arguments: object, **more: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Library, "update", killed)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # nothing is tidied up either
        for change in (lambda: amend(library, entry.id, {"triggers": "ink"}), lambda: set_cover(
            library, entry.id, pictures[1]
        )):  # fmt: skip
            with pytest.raises(Killed):
                change()
    assert library.get(entry.id) == there
    check(there)
    assert cover_file(library.workspace, there) is not None


def test_an_edited_example_is_a_persons_own(library: Library) -> None:
    library.add_examples()
    entry = library.get("example-mascot")
    amended = amend(library, entry.id, {"triggers": "mine"})
    assert amended.path.parent == library.workspace.folder("adapters") and amended.origin == "example"
    library.add_examples()
    assert library.get(entry.id).triggers == ["mine"]


def test_a_cover_outlives_its_picture(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path, pictures: list[Path]
) -> None:
    entry = library.add(make_adapter(tmp_path / "1.safetensors"))[0]
    drawn = library.workspace.folder("images", "5-a.png")
    drawn.write_bytes(pictures[0].read_bytes())
    library.set_cover(entry.id, "image/5-a")
    drawn.unlink()
    first = cover_file(library.workspace, library.get(entry.id))
    assert first is not None and first.parent.name == "adapters"
    set_cover(library, entry.id, pictures[1])
    second = cover_file(library.workspace, library.get(entry.id))
    assert second is not None and second != first and not first.exists()
    with pytest.raises(AdapterError, match="can't be read"):
        set_cover(library, entry.id, b"no picture")
    with pytest.raises(PictureError, match="gone"):
        set_cover(library, entry.id, "image/../../x")
    assert cover_file(library.workspace, library.get(entry.id)) == second
