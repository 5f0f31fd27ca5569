"""Recipes: a mix as a small JSON file, with the hashes of its base and its adapters."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import AdapterError
from pipelines.files import file_sha256, write_atomic
from pipelines.plain_json import parse_json

if TYPE_CHECKING:
    from pipelines.mixer import Weights

MAX_BYTES = 1_000_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
WeightValue = Annotated[float, Field(ge=-2, le=3, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _printable_name(text: str) -> str:
    if not text.isprintable():
        raise ValueError("names hold no control characters")
    return text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ingredient(_Part):
    """One adapter of a recipe and its weights (see `mixer.Weights`).

    sha256: of its file. bytes: the file's size, so that only files of that size are hashed to find it.
    tensors_sha256: of the tensors' bytes alone, which stays when the metadata are edited; None if unknown.
    """

    name: Annotated[str, AfterValidator(_printable_name)] = Field(max_length=200)
    sha256: Sha256
    bytes: int = Field(ge=0)
    tensors_sha256: Sha256 | None = None
    weight: WeightValue = 1.0
    text_weight: WeightValue | None = None
    blocks: Mapping[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    begin: Share = 0.0
    end: Share = 0.0
    triggers: tuple[str, ...] = ()

    def weights(self) -> Weights:
        """Return what `Mixer.set` takes for it."""
        from pipelines.mixer import Weights

        return Weights(
            unet=self.weight, text=self.text_weight, blocks=dict(self.blocks), begin=self.begin, end=self.end
        )


class RecipeBase(_Part):
    """The base that a mix was made on."""

    ref: str = Field(max_length=1000)
    family: str = Field(max_length=40)
    sha256: Sha256


class Recipe(_Part):
    """A mix: its base, its adapters with their weights, and a prompt to draw it by (may be empty)."""

    pigment_recipe: int = Field(default=1, ge=1, le=1)
    name: str = Field(default="", max_length=200)
    base: RecipeBase
    adapters: tuple[Ingredient, ...] = Field(min_length=1, max_length=64)
    prompt: str = Field(default="", max_length=10_000)

    def save(self, path: str | Path) -> None:
        """Write the recipe atomically as JSON. Raises: AdapterError where the system refuses."""
        path = Path(path)
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
        try:
            write_atomic(path, [text.encode()])
        except OSError as error:
            raise AdapterError(f"{path.name!r} can't be written: {error.strerror or error}") from None


def _printable(text: str) -> str:
    """A text on one line, for messages: at most 80 characters, none that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)[:80]


def ingredient(path: str | Path, name: str, triggers: Iterable[str] = (), **weights: Any) -> Ingredient:
    """Make a recipe's entry of an adapter file. weights: fields of `Ingredient`."""
    from pipelines.formats.container import data_sha256, read_header

    path = Path(path)
    return Ingredient(
        name=name[:200],
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        tensors_sha256=data_sha256(path, read_header(path).data_start),
        triggers=tuple(triggers),
        **weights,
    )


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe. Raises: AdapterError in one line where it isn't one."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise AdapterError(
                f"{path.name!r} has {size:,} bytes, at most {MAX_BYTES:,} are read as a recipe"
            )
        return Recipe.model_validate(parse_json(path.read_bytes().removeprefix(codecs.BOM_UTF8)))
    except OSError as error:
        raise AdapterError(
            f"{path.name!r} can't be read: {error.strerror or error}; check the path"
        ) from None
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        where = ".".join(_printable(str(step)) for step in mistake["loc"]) or "its top"
        raise AdapterError(f"{path.name!r} isn't a recipe: {where}: {mistake['msg'][:120]}") from None
    except ValueError:
        raise AdapterError(f"{path.name!r} isn't a recipe: it isn't JSON") from None


@dataclass(frozen=True)
class Found:
    """What of a recipe is at hand. files: by sha256 of the recipe's entry. missing: entries not found."""

    recipe: Recipe
    files: Mapping[str, Path]
    missing: tuple[Ingredient, ...]

    def problem(self) -> str | None:
        """Say in one line what is missing, or None."""
        if not self.missing:
            return None
        names = ", ".join(f"{one.name!r} (SHA-256 {one.sha256[:12]}…)" for one in self.missing[:4])
        more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        total = len(self.recipe.adapters)
        return f"{len(self.missing)} of {total} adapters aren't here: {names}{more}; import those files first"

    def base_note(self, sha256: str) -> str | None:
        """Say that the mix was made on another base than the one of that hash, or None."""
        if sha256 == self.recipe.base.sha256:
            return None
        stated = self.recipe.base
        return (
            f"this mix was made on base {stated.ref!r} (SHA-256 {stated.sha256[:12]}…), which this isn't: "
            "the pictures will differ"
        )


def find_adapters(recipe: Recipe, candidates: Iterable[Path]) -> Found:
    """Find a recipe's adapters among files by hash, whatever they are called now.

    Files of the right size are hashed; one whose metadata were edited is still found by its tensors.
    """
    wanted = {one.sha256: one for one in recipe.adapters}
    sizes = {one.bytes for one in recipe.adapters}
    by_tensors = {one.tensors_sha256: one.sha256 for one in recipe.adapters if one.tensors_sha256}
    files: dict[str, Path] = {}
    others: list[Path] = []
    for path in candidates:
        if len(files) == len(wanted):
            break
        try:
            sha256 = file_sha256(path) if path.stat().st_size in sizes else ""
        except OSError:
            continue
        if sha256 in wanted:
            files.setdefault(sha256, path)
        else:
            others.append(path)
    for path in others if len(files) < len(wanted) else ():
        tensors = _tensors_sha256(path, set(by_tensors))
        if tensors in by_tensors:
            files.setdefault(by_tensors[tensors], path)
    missing = tuple(one for one in recipe.adapters if one.sha256 not in files)
    return Found(recipe, files, missing)


def _tensors_sha256(path: Path, wanted: set[str]) -> str:
    """Return the SHA-256 of a file's tensors where its metadata state a wanted one, proven; else ""."""
    from pipelines.formats.container import data_sha256, read_header

    try:
        header = read_header(path)
        stated = header.metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
        return data_sha256(path, header.data_start) if stated in wanted else ""
    except (AdapterError, OSError):
        return ""
