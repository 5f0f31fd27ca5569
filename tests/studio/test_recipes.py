"""Recipes: a mix is kept by name, comes back as it was, and finds its adapters by their content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import AdapterError
from studio import recipes
from studio.context import Context
from studio.mixing import MixPart
from studio.recipes import Recipes
from studio.workspace import Workspace

BASE = {"ref": "pocket", "family": "sd15", "sha256": "ab" * 32, "prediction_type": "epsilon"}


@pytest.fixture
def asked(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the drawing process is asked; it answers what the base is."""
    found: list[str] = []

    def ask(verb: str, **request: Any) -> dict[str, Any]:
        found.append(verb)
        return {**BASE, "ref": request["base"]}

    monkeypatch.setattr(context.runner.maker, "ask", ask)
    return found


@pytest.fixture
def mix(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> list[MixPart]:
    """Two adapters of the library with weights of every kind, and one that is switched off."""
    ids = [
        context.library.add(make_adapter(tmp_path / f"{name}.safetensors", seed=seed, name=name), name=name)[
            0
        ].id
        for seed, name in enumerate(("zib", "ink", "off"))
    ]
    whole: dict[str, Any] = {
        "weight": -0.5,
        "text": 0.25,
        "blocks": {"mid_block": 0.5},
        "begin": 0.1,
        "end": 0.4,
    }
    return [MixPart(id=ids[0], **whole), MixPart(id=ids[1], weight=3), MixPart(id=ids[2], on=False)]


@pytest.mark.usefixtures("asked")
def test_a_mix_comes_back_as_it_was(context: Context, mix: list[MixPart]) -> None:
    kept = Recipes(context).save("  Blue \n zib ", mix, "a zib")
    assert (kept.name, kept.file_name) == ("Blue zib", "Blue-zib.recipe.json")
    opened = Recipes(context).open(kept.id)
    assert opened.mix == tuple(mix[:2]) and opened.prompt == "a zib" and opened.notes == ()
    shown = recipes.as_data(kept)
    assert shown["adapters"] == [{"name": "zib", "weight": -0.5}, {"name": "ink", "weight": 3.0}]
    assert [row.id for row in Recipes(context).rows()] == [kept.id]


def test_a_name_is_used_once_and_the_base_is_asked_for_once(
    context: Context, mix: list[MixPart], asked: list[str]
) -> None:
    first = Recipes(context).save("one", mix)
    again = Recipes(context).save("one", mix[1:2])
    assert again.id == first.id and len(again.recipe.adapters) == 1
    assert len(Recipes(context).rows()) == 1
    assert asked == ["about"]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name, said", [("  ", "no name"), ("x" * 81, "81 characters")])
def test_a_bad_name_is_refused(context: Context, mix: list[MixPart], name: str, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        Recipes(context).save(name, mix)
    assert Recipes(context).rows() == []


@pytest.mark.usefixtures("asked")
def test_nothing_makes_no_recipe(context: Context, mix: list[MixPart]) -> None:
    with pytest.raises(AdapterError, match="nothing is in the mix"):
        Recipes(context).save("empty", mix[2:])


@pytest.mark.usefixtures("asked")
def test_a_file_is_handed_on(
    context: Context, mix: list[MixPart], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Recipes(context).save("blue", mix).text
    with_other_base = Workspace.open(tmp_path / "elsewhere")
    try:
        there = Context(with_other_base, type(context.runner)(with_other_base))
        monkeypatch.setattr(there.runner.maker, "ask", lambda verb, base: {**BASE, "sha256": "cd" * 32})
        kept = Recipes(there).take(text.encode())
        with pytest.raises(AdapterError, match=r"none of the recipe's adapters .*“zib” \(SHA-256"):
            Recipes(there).open(kept.id)
        there.library.add(context.library.get(mix[0].id).path, name="called otherwise")
        opened = Recipes(there).open(kept.id)
        assert [part.weight for part in opened.mix] == [-0.5]
        assert "“ink”" in opened.notes[0] and "another" not in opened.notes[0]
        assert "made on base “pocket”" in opened.notes[1]
    finally:
        with_other_base.close()


@pytest.mark.usefixtures("asked")
def test_an_adapter_whose_metadata_were_edited_is_found_by_its_tensors(
    context: Context, mix: list[MixPart]
) -> None:
    text = json.loads(Recipes(context).save("blue", mix).text)
    for one in text["adapters"]:
        one["sha256"] = one["sha256"][::-1]  # of the file as it was elsewhere
    kept = Recipes(context).take(json.dumps({**text, "name": "edited"}).encode())
    assert [part.id for part in Recipes(context).open(kept.id).mix] == [part.id for part in mix[:2]]


@pytest.mark.usefixtures("asked")
def test_another_recipe_of_a_name_gets_a_number(context: Context, mix: list[MixPart]) -> None:
    text = json.loads(Recipes(context).save("blue", mix).text)
    assert Recipes(context).take(json.dumps(text).encode()).name == "blue"
    other = Recipes(context).take(json.dumps({**text, "prompt": "another"}).encode())
    assert other.name == "blue 2"
    assert Recipes(context).take(json.dumps({**text, "prompt": "another"}).encode()).id == other.id


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"pigment_recipe": 2}', b" " * 1_000_100]
)
def test_what_is_no_recipe_is_refused_in_one_line(context: Context, content: bytes) -> None:
    with pytest.raises(AdapterError) as caught:
        Recipes(context).take(content)
    assert "\n" not in str(caught.value) and str(context.workspace.root) not in str(caught.value)


@pytest.mark.usefixtures("asked")
def test_removed_and_brought_back(context: Context, mix: list[MixPart]) -> None:
    kept = Recipes(context).save("blue", mix)
    assert Recipes(context).remove(kept.id).text == kept.text
    with pytest.raises(AdapterError, match="no recipe"):
        Recipes(context).get(kept.id)
    assert Recipes(context).take(kept.text.encode()).recipe == kept.recipe


@pytest.mark.usefixtures("asked")
def test_one_that_cannot_be_read_spoils_no_list(context: Context, mix: list[MixPart]) -> None:
    kept = Recipes(context).save("good", mix)
    many = json.loads(kept.text)
    many["adapters"][0]["blocks"] = {f"b{number}": 0.5 for number in range(200)}
    with context.workspace.write() as db:
        for name, text in (("newer", '{"pigment": 99}'), ("many", json.dumps({**many, "name": "many"}))):
            db.execute("INSERT INTO recipes VALUES (?, ?, ?, 1, 1)", (name, name, text))
    shown = {one["name"]: one["adapters"] for one in map(recipes.as_data, Recipes(context).rows())}
    assert shown["newer"] == [] and len(shown["good"]) == 2
    with pytest.raises(AdapterError, match="this version"):
        Recipes(context).open("newer")
    assert len(Recipes(context).open("many").mix[0].blocks) == 64
    Recipes(context).remove("newer")
