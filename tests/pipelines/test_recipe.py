"""Recipes: a mix comes back from its file, its adapters are found by hash, what is missing is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import write_adapter
from pipelines.mixer import Weights
from pipelines.recipe import Recipe, RecipeBase, find_adapters, ingredient, read_recipe
from tests.tiny import random_adapter


@pytest.fixture
def files(tiny_base: Base, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for seed, path in enumerate(paths):
        write_adapter(random_adapter(tiny_base, seed=seed), path)
    return paths


@pytest.fixture
def recipe(tiny_base: Base, files: list[Path]) -> Recipe:
    return Recipe(
        name="ink fox",
        base=RecipeBase(ref=tiny_base.ref, family="sd15", sha256=tiny_base.sha256),
        adapters=(
            ingredient(files[0], "one", ["zwx"], weight=0.8, text_weight=0.0),
            ingredient(files[1], "two", weight=-1.5, blocks={"mid_block": 0.5}, begin=0.3, end=0.6),
        ),
        prompt="a photo of a fox",
    )


def test_a_recipe_comes_back(recipe: Recipe, tmp_path: Path) -> None:
    recipe.save(tmp_path / "mix.json")
    back = read_recipe(tmp_path / "mix.json")
    assert back == recipe
    assert back.adapters[0].weights() == Weights(unet=0.8, text=0.0)
    assert back.adapters[1].weights() == Weights(unet=-1.5, blocks={"mid_block": 0.5}, begin=0.3, end=0.6)
    assert back.adapters[0].triggers == ("zwx",)


def test_adapters_are_found_by_hash_whatever_they_are_called(
    recipe: Recipe, files: list[Path], tmp_path: Path
) -> None:
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(b"x" * files[0].stat().st_size)
    renamed = files[0].rename(tmp_path / "renamed.safetensors")
    found = find_adapters(recipe, [odd, tmp_path / "gone.safetensors", renamed, files[1]])
    assert found.problem() is None
    assert list(found.files.values()) == [renamed, files[1]]


def test_an_adapter_whose_metadata_were_edited_is_found_by_its_tensors(
    recipe: Recipe, files: list[Path], tmp_path: Path
) -> None:
    raw = files[0].read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["modelspec.author"] = "somebody"
    changed = json.dumps(header).encode()
    edited = tmp_path / "edited.safetensors"
    edited.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])
    files[0].unlink()
    assert find_adapters(recipe, [edited, files[1]]).files[recipe.adapters[0].sha256] == edited
    forged = tmp_path / "forged.safetensors"
    tensors = {name: value * 2 for name, value in load_file(files[1]).items()}
    save_file(tensors, forged, {"modelspec.hash_sha256": f"0x{recipe.adapters[1].tensors_sha256}"})
    files[1].unlink()
    assert recipe.adapters[1] in find_adapters(recipe, [forged]).missing


def test_what_is_missing_is_named(recipe: Recipe, files: list[Path]) -> None:
    found = find_adapters(recipe, files[:1])
    assert [one.name for one in found.missing] == ["two"]
    says = found.problem()
    assert says is not None and says.startswith("1 of 2 adapters aren't here: 'two' (SHA-256 ")
    assert recipe.adapters[1].sha256[:12] in says


def test_another_base_is_noticed(recipe: Recipe, tiny_base: Base) -> None:
    found = find_adapters(recipe, [])
    assert found.base_note(tiny_base.sha256) is None
    assert "made on base" in (found.base_note("0" * 64) or "")


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "isn't JSON"),
    "deep JSON": ("[" * 100_000, "isn't JSON"),
    "a list": ([], "isn't a recipe"),
    "unknown field": ({"pigment_recipe": 1, "x": 1}, "isn't a recipe"),
    "later version": ({"pigment_recipe": 2}, "pigment_recipe: Input should be less"),
    "too big": ("[" + "1," * 600_000 + "1]", "at most 1,000,000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recipe_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, says = BAD[kind]
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AdapterError, match=says) as refusal:
        read_recipe(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", 3.5), ("weight", float("nan")), ("begin", -0.1), ("sha256", "../x"), ("bytes", -1)],
)
def test_a_bad_ingredient_is_named(recipe: Recipe, tmp_path: Path, field: str, value: Any) -> None:
    raw = recipe.model_dump(mode="json")
    raw["adapters"][1][field] = value
    (tmp_path / "bad.json").write_text(json.dumps(raw))
    with pytest.raises(AdapterError, match=rf"adapters\.1\.{field}"):
        read_recipe(tmp_path / "bad.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="can't be read"):
        read_recipe(tmp_path / "nowhere.json")
