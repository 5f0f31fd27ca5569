"""Bases: the base models of a workspace by name. Their files stay where they are."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import BaseError, nearest
from studio.base_refs import NAME_LENGTH, POCKET, clean, hub_id, local_ref, name_of
from studio.workspace import Workspace

__all__ = ["POCKET", "BaseEntry", "BaseOptions", "Bases", "hub_id", "local_ref"]

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.bases.source import Source

CHOSEN = "base"
"""The setting of the workspace: the name of the base that the studio draws and teaches with."""


@dataclass(frozen=True, kw_only=True)
class BaseEntry:
    """A base of the workspace.

    Attributes:
        ref: the whole path of a folder or file, or a hub id: what `load_base` takes.
        prediction_type: empty where only loading tells it.
        bytes: of its weight files. sha256: as `Source.sha256`.
        info: what `describe` found when it was added.
        created: seconds since 1970.
        listed_for_all: by the machine's own person, and so seen by every account; only they take it away.
    """

    name: str
    ref: str
    family: str
    prediction_type: str
    bytes: int
    sha256: str
    info: dict[str, Any]
    created: float
    listed_for_all: bool = False

    @property
    def kept(self) -> dict[str, str]:
        """How it has to be opened, as it was when it was added: fields of BaseOptions."""
        return dict(self.info.get("kept", {}))

    @property
    def told(self) -> str:
        """What it is a name for, as its reader may know it: other accounts aren't told folders."""
        return "a file of whoever runs Pigment" if self.listed_for_all else self.ref

    @property
    def missing(self) -> bool:
        """Whether its folder or file isn't there any more; a hub id's is fetched again."""
        return Path(self.ref).is_absolute() and not Path(self.ref).exists()


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """How a base is loaded; every None leaves the choice to the base and the machine.

    Attributes:
        vae: another VAE's file or folder. configs: the diffusers folder whose configs a single file is read
            by. prediction_type: against what the base says of itself.
        device, precision: see `choose_device`.
        placement: fields of `pipelines.placement.Placement`.
    """

    vae: str | None = None
    configs: str | None = None
    prediction_type: str | None = None
    device: str | None = None
    precision: str | None = None
    placement: Mapping[str, Any] = field(default_factory=dict)

    def as_text(self) -> str:
        """As JSON, for a child process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> BaseOptions:
        """What `as_text` wrote."""
        return cls(**json.loads(text))

    def load(self, ref: str, on_progress: Callable[[Any], object] | None = None) -> Base:
        """Load a base so."""
        from pipelines.base import load_base
        from pipelines.placement import Placement

        return load_base(
            ref, device=self.device, dtype=self.precision, vae=self.vae, config=self.configs,
            prediction_type=self.prediction_type, placement=Placement(**self.placement),
            on_progress=on_progress,
        )  # fmt: skip

    def open(self, ref: str, on_progress: Callable[[Any], object] | None = None) -> Source:
        """Find out what a base is without loading it; a hub id is fetched as loading would."""
        from pipelines.bases.source import open_source

        return open_source(
            ref, vae=self.vae, config=self.configs, prediction_type=self.prediction_type, half=self.half,
            on_progress=on_progress,
        )  # fmt: skip

    def over(self, kept: Mapping[str, Any]) -> BaseOptions:
        """These options, and of those that the list keeps for a base what these leave open."""
        left: dict[str, Any] = {name: text for name, text in kept.items() if getattr(self, name) is None}
        return replace(self, **left)

    @property
    def half(self) -> bool:
        """Whether a base is used in half precision on this machine."""
        from pipelines.device import DTYPES, choose_device

        return choose_device(self.device, self.precision).dtype != DTYPES["fp32"]


@dataclass(frozen=True)
class Bases:
    """The bases of one workspace; in an account's room also those of the machine's own person."""

    workspace: Workspace

    @property
    def _for_all(self) -> Bases | None:
        """The machine's, where this is a room."""
        machine = self.workspace.machine
        return None if machine is self.workspace else Bases(machine)

    def entries(self) -> list[BaseEntry]:
        """All bases, by name; the embedded one isn't among them."""
        with self.workspace.read() as db:
            own = [_entry(row) for row in db.execute("SELECT * FROM bases ORDER BY name COLLATE NOCASE")]
        if self._for_all is None:
            return own
        names = {entry.name for entry in own}
        theirs = [entry for entry in self._for_all.entries() if entry.name not in names]
        own += [replace(entry, listed_for_all=True) for entry in theirs]
        return sorted(own, key=lambda entry: entry.name.casefold())

    def find(self, name: str) -> BaseEntry | None:
        """The base of that name; None when there is none."""
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM bases WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return _entry(row)
        found = None if self._for_all is None else self._for_all.find(name)
        return None if found is None else replace(found, listed_for_all=True)

    def get(self, name: str) -> BaseEntry:
        """The base of that name.

        Raises:
            BaseError: there is none.
        """
        if name == POCKET:
            raise BaseError("“pocket” is embedded and isn't in the list")
        entry = self.find(name)
        if entry is None:
            names = [POCKET, *(entry.name for entry in self.entries())]
            raise BaseError(f"no base {name!r} in the list{nearest(name, names)}")
        return entry

    def ref(self, text: str) -> str:
        """What `load_base` takes for what a person wrote: a path, "pocket", a name of the list, a hub id.

        What is there as a file goes first; a hub id has a slash, which no name has.

        Raises:
            BaseError: it is nothing of these, or its file is gone.
        """
        return self.chosen(text)[0]

    def chosen(self, text: str) -> tuple[str, dict[str, str]]:
        """What `ref` says, and how the list says that the base has to be opened (see `BaseEntry.kept`)."""
        found = local_ref(text) or hub_id(text)
        if found is not None:
            return found, {}
        entry = self.find(text)
        if entry is not None:
            if entry.missing:
                raise BaseError(
                    f"base {text!r} was {entry.told}, which is gone; put it back, or add it anew from "
                    "where it is now"
                )
            return entry.ref, entry.kept
        names = [POCKET, *(entry.name for entry in self.entries())]
        raise BaseError(
            f"no base {text!r}: no such folder or file, and no such name in the list{nearest(text, names)}; "
            "a hub id is written org/name"
        )

    def in_use(self) -> tuple[str, str, dict[str, str]]:
        """The base that the studio draws and teaches with: its name, its ref, how it has to be opened.

        One that is gone from the list gives way to the embedded one; one whose files are gone doesn't.
        """
        name = str(self.workspace.setting(CHOSEN, POCKET))
        entry = None if name == POCKET else self.find(name)
        return (POCKET, POCKET, {}) if entry is None else (entry.name, entry.ref, entry.kept)

    def use(self, name: str) -> str:
        """Draw and teach with a base of the list, or “pocket”, from now on; returns its ref.

        Raises:
            BaseError: there is none of that name, or its files are gone.
        """
        entry = None if name == POCKET else self.get(name)
        if entry is not None and entry.missing:
            raise BaseError(f"base {name!r} was {entry.told}, which is gone; put it back, or choose another")
        self.workspace.remember(CHOSEN, name)
        return POCKET if entry is None else entry.ref

    def options(self, ref: str, options: BaseOptions) -> BaseOptions:
        """How a base is loaded: as asked for, and where that is left open, as the list says it has to be."""
        entry = next((one for one in self.entries() if one.ref == ref), None)
        return options if entry is None else options.over(entry.kept)

    def add(self, source: Source, *, name: str = "") -> tuple[BaseEntry, bool]:
        """List an opened base. Its files stay where they are; they are read once, for the hash.

        Args:
            name: empty: made of its title or file.
        Returns:
            (entry, new): a base that is listed already comes back under the name that it has.
        Raises:
            BaseError: the name is taken or can't be one; nothing has changed.
        """
        from pipelines.bases.describing import describe

        if source.ref == POCKET:
            raise BaseError("“pocket” is always there; give a folder, a .safetensors file or a hub id")
        chosen = clean(name) if name else ""
        if chosen and self.find(chosen) is not None:
            raise BaseError(f"another base is called {chosen!r}; choose another name with --name")
        ref = local_ref(source.ref) or source.ref
        asked = (("configs", "config"), ("prediction_type", "prediction_type"))
        kept = {name: str(source.asked[key]) for name, key in asked if source.asked.get(key) is not None}
        same = [entry for entry in self.entries() if (entry.ref, entry.kept) == (ref, kept)]
        if same and chosen in ("", same[0].name):
            return same[0], False
        info = describe(source)
        chosen = chosen or self._free(name_of(ref))
        with self.workspace.write() as db:
            db.execute(
                "INSERT INTO bases (name, ref, family, prediction_type, bytes, sha256, info, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    chosen, ref, info.family, info.prediction_type or "", info.bytes, info.sha256,
                    json.dumps({**info.as_dict(), "kept": kept}), time.time(),
                ),
            )  # fmt: skip
        return self.get(chosen), True

    def remove(self, name: str) -> BaseEntry:
        """Take a base off the list; its files stay.

        Raises:
            BaseError: there is none of that name, or it is listed for all accounts.
        """
        entry = self.get(name)
        if entry.listed_for_all:
            raise BaseError(
                f"base {name!r} is listed for all accounts; ask whoever runs Pigment to take it off"
            )
        with self.workspace.write() as db:
            db.execute("DELETE FROM bases WHERE name = ?", (name,))
        return entry

    def _free(self, name: str) -> str:
        """`name`, or `name 2`, `name 3` … when it is taken."""
        number, chosen = 1, name
        while chosen == POCKET or self.find(chosen) is not None:
            number += 1
            chosen = f"{name[: NAME_LENGTH - 5]} {number}"
        return chosen


def _entry(row: sqlite3.Row) -> BaseEntry:
    values = dict(row)
    return BaseEntry(**{**values, "info": json.loads(values["info"])})
