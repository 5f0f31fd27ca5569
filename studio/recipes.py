"""Recipes of a workspace: mixes that are kept by name, loaded again and handed on as small files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipelines.errors import AdapterError
from studio.bases import Bases
from studio.context import Context
from studio.entries import Entry, slug
from studio.mix_request import MAX_BLOCKS
from studio.mixing import MAX_ADAPTERS, MAX_WEIGHT, MIN_WEIGHT, MixPart
from studio.workspace import new_id

if TYPE_CHECKING:
    from pipelines.recipe import Ingredient, Recipe

NAME_LENGTH = 80  # characters
MAX_RECIPES = 1000
EDITED_BYTES, EDITED_FILES = 100_000, 12
"""How much an edit of metadata changes a file, and how many files of such a size are read for a recipe."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A recipe in the index. text: the recipe as JSON. created, changed: seconds since 1970."""

    id: str
    name: str
    text: str
    created: float
    changed: float

    @property
    def recipe(self) -> Recipe:
        """The recipe itself. Raises: AdapterError: an older or newer Pigment wrote it otherwise."""
        from pipelines.recipe import Recipe

        try:
            return Recipe.model_validate_json(self.text)
        except ValidationError:
            raise AdapterError(f"recipe {self.name!r} can't be read by this version; remove it") from None

    @property
    def file_name(self) -> str:
        """What it is downloaded as."""
        return f"{slug(self.name)}.recipe.json"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What of a recipe is at hand. mix: its adapters that are here. notes: what a person should know, a line
    each: adapters that are missing, another base."""

    mix: tuple[MixPart, ...]
    prompt: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Recipes:
    """The recipes of one studio."""

    context: Context

    def rows(self) -> list[Kept]:
        """All of them, the last changed first."""
        with self.context.workspace.read() as db:
            return [
                Kept(**dict(row))
                for row in db.execute("SELECT * FROM recipes ORDER BY changed DESC, rowid DESC")
            ]

    def get(self, recipe_id: str) -> Kept:
        """One of them. Raises: AdapterError where there is none of that id."""
        with self.context.workspace.read() as db:
            row = db.execute("SELECT * FROM recipes WHERE id = ?", (recipe_id,)).fetchone()
        if row is None:
            raise AdapterError(f"no recipe {recipe_id[:40]!r} here; it may have been removed")
        return Kept(**dict(row))

    def save(self, name: str, mix: Sequence[MixPart], prompt: str = "") -> Kept:
        """Keep a mix under a name; one of the same name is replaced.

        Raises:
            AdapterError: no name, nothing in the mix, or an adapter is gone.
        """
        from pipelines.recipe import Recipe, RecipeBase, ingredient

        used = [part for part in mix if part.on]
        if not used:
            raise AdapterError("nothing is in the mix; add an adapter, then save it as a recipe")
        found = []
        for part in used:
            entry = self.context.library.get(part.id)
            weights = {"weight": part.weight, "text_weight": part.text, "blocks": dict(part.blocks)}
            found.append(
                ingredient(entry.path, entry.name, entry.triggers, **weights, begin=part.begin, end=part.end)
            )
        recipe = Recipe(
            name=_clean(name), base=RecipeBase(**self._base()), adapters=tuple(found), prompt=prompt[:10_000]
        )
        return self._keep(recipe)

    def take(self, content: bytes) -> Kept:
        """Keep a recipe that somebody handed on as a file.

        Raises:
            AdapterError: it isn't one.
        """
        from pipelines.recipe import MAX_BYTES, read_recipe

        with tempfile.TemporaryDirectory(dir=self.context.workspace.folder("cache")) as folder:
            path = Path(folder) / "recipe.json"
            path.write_bytes(content[: MAX_BYTES + 1])
            recipe = read_recipe(path)
        name = _clean(recipe.name or " + ".join(one.name for one in recipe.adapters)[:NAME_LENGTH])
        taken = {row.name: row for row in self.rows()}
        number, chosen = 1, name
        while chosen in taken and taken[chosen].recipe != recipe.model_copy(update={"name": chosen}):
            number += 1
            chosen = f"{name[: NAME_LENGTH - 5]} {number}"
        return self._keep(recipe.model_copy(update={"name": chosen}))

    def open(self, recipe_id: str) -> Opened:
        """The mix of a recipe with the adapters of the library, which are found by their content.

        Raises:
            AdapterError: none of its adapters is here.
        """
        recipe = self.get(recipe_id).recipe
        entries = {one.sha256: self._entry(one) for one in recipe.adapters}
        mix: list[MixPart] = []
        for one in recipe.adapters[:MAX_ADAPTERS]:
            entry = entries[one.sha256]
            if entry is not None and entry.id not in {part.id for part in mix}:
                mix.append(_part(entry, one))
        lacking = [one for one in recipe.adapters if entries[one.sha256] is None]
        notes = []
        if lacking:
            names = ", ".join(f"“{one.name}” (SHA-256 {one.sha256[:12]}…)" for one in lacking[:4])
            more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
            notes.append(f"not in the library: {names}{more}; import those files first")
        if not mix:
            raise AdapterError(f"none of the recipe's adapters can be mixed: {notes[0]}")
        base = self._base()
        if base["sha256"] != recipe.base.sha256:
            notes.append(
                f"this mix was made on base “{recipe.base.ref}”, which this isn't: the pictures will differ"
            )
        return Opened(mix=tuple(mix), prompt=recipe.prompt, notes=tuple(notes))

    def remove(self, recipe_id: str) -> Kept:
        """Take one away; what `take` makes of its text brings it back. Raises: AdapterError for no such."""
        kept = self.get(recipe_id)
        with self.context.workspace.write() as db:
            db.execute("DELETE FROM recipes WHERE id = ?", (recipe_id,))
        return kept

    def _keep(self, recipe: Recipe) -> Kept:
        now, text = time.time(), recipe.model_dump_json(indent=2)
        with self.context.workspace.write() as db:
            row = db.execute("SELECT id FROM recipes WHERE name = ?", (recipe.name,)).fetchone()
            if row is None and db.execute("SELECT count(*) FROM recipes").fetchone()[0] >= MAX_RECIPES:
                raise AdapterError(f"{MAX_RECIPES} recipes are kept at most; remove one first")
            recipe_id = row["id"] if row is not None else new_id()
            db.execute(
                "INSERT INTO recipes (id, name, text, created, changed) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET text = excluded.text, changed = excluded.changed",
                (recipe_id, recipe.name, text, now, now),
            )
        return self.get(recipe_id)

    def _base(self) -> dict[str, str]:
        """Ref, family and SHA-256 of the base that the studio draws with; found once."""
        ref = self.context.base
        for entry in Bases(self.context.workspace).entries():
            if entry.ref == ref:
                return {"ref": ref, "family": entry.family, "sha256": entry.sha256}
        known = self.context.workspace.setting("recipes_base", {})
        if known.get("ref") != ref:
            known = self.context.runner.maker.ask("about", base=ref)
            known = {name: str(known[name]) for name in ("ref", "family", "sha256")}
            self.context.workspace.remember("recipes_base", known)
        return dict(known)

    def _entry(self, one: Ingredient) -> Entry | None:
        """The library's adapter for an entry of a recipe, by its file's content, else by its tensors'."""
        library = self.context.library
        found = library.by_hash(one.sha256)
        if found is not None and found.trashed is None:
            return found
        return self._by_tensors(one)

    def _by_tensors(self, one: Ingredient) -> Entry | None:
        """An adapter with the same tensors, whose metadata were edited: so its file is about as large."""
        from pipelines.formats.container import data_sha256, read_header

        if one.tensors_sha256 is None:
            return None
        with self.context.workspace.read() as db:
            rows = db.execute(
                "SELECT id FROM adapters WHERE trashed IS NULL AND abs(bytes - ?) <= ? "
                "ORDER BY abs(bytes - ?) LIMIT ?",
                (one.bytes, EDITED_BYTES, one.bytes, EDITED_FILES),
            ).fetchall()
        for row in rows:
            try:
                entry = self.context.library.get(row["id"])
                if data_sha256(entry.path, read_header(entry.path).data_start) == one.tensors_sha256:
                    return entry
            except (AdapterError, OSError):
                continue
        return None


def _part(entry: Entry, one: Ingredient) -> MixPart:
    return MixPart(
        id=entry.id, weight=min(MAX_WEIGHT, max(MIN_WEIGHT, one.weight)), text=one.text_weight,
        blocks=dict([*one.blocks.items()][:MAX_BLOCKS]), begin=one.begin, end=one.end,
    )  # fmt: skip


def _clean(name: str) -> str:
    """A name on one line. Raises: AdapterError where it is empty or too long."""
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if not cleaned:
        raise AdapterError("the recipe has no name; give it one")
    if len(cleaned) > NAME_LENGTH:
        raise AdapterError(f"the name has {len(cleaned)} characters, at most {NAME_LENGTH} fit; shorten it")
    return cleaned


def as_data(kept: Kept) -> dict[str, Any]:
    """A recipe as the page shows it; one that can't be read has no adapters."""
    shown = {"id": kept.id, "name": kept.name, "changed": kept.changed, "file": kept.file_name}
    try:
        recipe = kept.recipe
    except AdapterError:
        return {**shown, "prompt": "", "adapters": []}
    adapters = [{"name": one.name, "weight": one.weight} for one in recipe.adapters]
    return {**shown, "prompt": recipe.prompt, "adapters": adapters}
