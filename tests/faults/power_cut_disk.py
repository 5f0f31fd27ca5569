"""A disk whose power can be cut: what of a folder would outlast it, at each moment, by what was synced.

Every call that makes, moves or syncs a file is watched (`power_cut_calls`). A file outlasts as it was at its
last fsync; a name, by the last fsync of its folder; a rename's two halves only together. What was not
synced may be there, or not, or half of it, in any order: `Cut.leave` writes one such state. A file system may
promise more; none that we know of promises less.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = 0  # the number of the folder that is watched
Name = tuple[int, str]
"""(number of a folder, a name in it)."""
WAYS = ("nothing unsynced", "names without contents", "at random", "at random", "everything")
"""What becomes of what wasn't synced."""


@dataclass
class File:
    """A file's contents, by digest: now, and at its last fsync (None: there was none)."""

    now: bytes
    synced: bytes | None = None


@dataclass(frozen=True)
class Change:
    """What one call did to names that isn't synced yet: name → number of the file or folder; None: gone."""

    names: dict[Name, int | None]


@dataclass(frozen=True)
class Cut:
    """A moment: what would outlast it. told: how many things were told as done until then."""

    what: str
    told: int
    names: dict[Name, int]
    changes: tuple[Change, ...]
    files: dict[int, File]
    contents: dict[bytes, bytes]

    def leave(self, target: Path, way: str, chance: random.Random) -> None:
        """Write what may be left into a folder that isn't there. way: one of WAYS."""
        names = dict(self.names)
        for change in self.changes:
            if way != "nothing unsynced" and (way != "at random" or chance.random() < 0.5):
                for name, number in change.names.items():
                    names.pop(name, None)
                    if number is not None:
                        names[name] = number
        self._put(ROOT, target, names, way, chance, frozenset())

    def _put(
        self, folder: int, target: Path, names: dict[Name, int], way: str, chance: random.Random,
        above: frozenset[int],
    ) -> None:  # fmt: skip
        target.mkdir(parents=True)
        for (parent, name), number in names.items():
            if parent != folder or number in above:
                continue
            if number in self.files:
                (target / name).write_bytes(self._contents(self.files[number], way, chance))
            else:
                self._put(number, target / name, names, way, chance, above | {folder})

    def _contents(self, file: File, way: str, chance: random.Random) -> bytes:
        now = self.contents[file.now]
        if file.now == file.synced or way == "everything":
            return now
        before = b"" if file.synced is None else self.contents[file.synced]
        if way != "at random":
            return before
        half = now[: chance.randint(0, len(now))]
        # What is added to a file is there from its front; of a new one some pages may be empty.
        zeros = (now if now.startswith(before) else b"")[: len(before)].ljust(len(now), b"\0")
        return chance.choice((before, half if len(half) >= len(before) else before, zeros, now))


@dataclass(eq=False)
class Disk:
    """What is known of a watched folder. cuts: every moment at which power might go, in order."""

    root: Path
    cuts: list[Cut] = field(default_factory=list)
    told: int = 0
    _names: dict[Name, int] = field(default_factory=dict)
    _synced: dict[Name, int] = field(default_factory=dict)
    _changes: list[Change] = field(default_factory=list)
    _files: dict[int, File] = field(default_factory=dict)
    _contents: dict[bytes, bytes] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _read: dict[int, tuple[int, int]] = field(default_factory=dict)
    _next: int = ROOT + 1

    def look(self, together: bool = False) -> None:
        """Find out what has changed. together: all of it was one call."""
        self._numbers[self.root.stat().st_ino] = ROOT
        found = dict(self._walk(self.root, ROOT))
        if not together:
            self._tell_apart(found)
        gone: dict[Name, int | None] = {name: None for name in self._names if name not in found}
        new = {name: number for name, number in found.items() if self._names.get(name) != number}
        whole = gone | new
        if whole:
            parts = [whole] if together else [{name: number} for name, number in whole.items()]
            self._changes += [Change(part) for part in parts]
        self._names = found

    def _tell_apart(self, found: dict[Name, int]) -> None:
        """Number files anew that have nothing but the inode of one that somebody else has removed."""
        names: dict[int, list[Name]] = {}
        for name, number in self._names.items():
            names.setdefault(number, []).append(name)
        for name, number in found.items():
            known = names.get(number, [])
            if number in self._files and known and not any(found.get(one) == number for one in known):
                inode = next(inode for inode, own in self._numbers.items() if own == number)
                found[name], self._next = self._next, self._next + 1
                self._numbers[inode] = found[name]
                self._files[found[name]] = File(self._files[number].now)

    def _walk(self, folder: Path, number: int) -> Iterator[tuple[Name, int]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # a thread or child has removed it just now
                    continue
                own = self._numbers.get(found.st_ino)
                # A number of the system's is given anew: a folder's and a file's are told apart at least.
                if own is None or (own in self._files) != stat.S_ISREG(found.st_mode):
                    own, self._next = self._next, self._next + 1
                    self._numbers[found.st_ino] = own
                if stat.S_ISDIR(found.st_mode):
                    yield (number, entry.name), own
                    yield from self._walk(Path(entry.path), own)
                elif stat.S_ISREG(found.st_mode) and self._take(Path(entry.path), own, found):
                    yield (number, entry.name), own

    def _take(self, path: Path, own: int, found: os.stat_result) -> bool:
        seen = (found.st_size, found.st_mtime_ns)
        if self._read.get(own) == seen:
            return True
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        digest = hashlib.sha256(content).digest()
        self._contents[digest] = content
        known = self._files.get(own)
        self._files[own] = File(digest, known.synced if known else None)
        # What was written a moment ago may be written again within the same tick of the disk's clock.
        fresh = abs(time.time_ns() - found.st_mtime_ns) < 50_000_000
        self._read[own] = (-1, -1) if fresh else seen
        return True

    def cut(self, what: str) -> None:
        """Let this be a moment at which power might go."""
        files = {number: File(one.now, one.synced) for number, one in self._files.items()}
        self.cuts.append(
            Cut(what, self.told, dict(self._synced), tuple(self._changes), files, self._contents)
        )

    def forget(self, number: int) -> None:
        """An inode that has lost its last name: its number may come again for another file."""
        self._numbers = {inode: own for inode, own in self._numbers.items() if own != number}

    def number_of(self, path: Path) -> int | None:
        """The number of a file or folder below the root; None for another one."""
        try:
            return self._numbers.get(path.stat().st_ino) if path.is_relative_to(self.root) else None
        except OSError:
            return None

    def sync(self, number: int) -> None:
        """An fsync of a file or folder has come back."""
        if number in self._files:
            self._files[number].synced = self._files[number].now
            return
        self.sync_names(lambda name: name[0] == number)

    def sync_names(self, which: Callable[[Name], bool]) -> None:
        """Let changes of such names last, with what the same call did elsewhere."""
        left: list[Change] = []
        for change in self._changes:
            if not any(which(name) for name in change.names):
                left.append(change)
                continue
            for name, number in change.names.items():
                self._synced.pop(name, None)
                if number is not None:
                    self._synced[name] = number
            # An earlier change of the same name can't come after it.
            left = [Change({n: v for n, v in one.names.items() if n not in change.names}) for one in left]
        self._changes = [one for one in left if one.names]
