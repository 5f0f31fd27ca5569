"""Searching the library: words, filters, an order, a page at a time; fast at ten thousand adapters."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import ConfigError, nearest
from studio.entries import Entry, entry_of
from studio.workspace import Workspace

PAGE = 24  # adapters

SORTS: dict[str, tuple[str, str]] = {
    "newest": ("Newest", "origin = 'example', created DESC, rowid DESC"),
    "oldest": ("Oldest", "created, rowid"),
    "name": ("Name", "name COLLATE NOCASE, rowid"),
    "largest": ("Largest file", "bytes DESC, rowid"),
    "smallest": ("Smallest file", "bytes, rowid"),
}
"""By id: the label, and what the index orders by."""


class Query(BaseModel):
    """What is looked for. words: all of them must occur, in any case, in a name, trigger, tag, note or
    description. family, method, tag, origin: empty takes all. page: from 0."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    words: str = Field(default="", max_length=200)
    family: str = Field(default="", max_length=80)
    method: str = Field(default="", max_length=80)
    tag: str = Field(default="", max_length=80)
    origin: str = Field(default="", max_length=80)
    trashed: bool = False
    sort: str = Field(default="newest", max_length=20)
    page: int = Field(default=0, ge=0, le=10**6)

    @property
    def narrowed(self) -> bool:
        """Whether anything but an order is asked for."""
        return bool(self.words.strip() or self.family or self.method or self.tag or self.origin)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A page of what was found. total: adapters on all pages; page: from 0; pages: how many, at least 1."""

    entries: list[Entry]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, kw_only=True)
class Facets:
    """What can be filtered by: value → how many adapters have it, the commonest first."""

    family: dict[str, int]
    method: dict[str, int]
    tag: dict[str, int]
    origin: dict[str, int]
    total: int
    trashed: int


def _where(query: Query) -> tuple[str, list[Any]]:
    clauses, values = [f"trashed IS {'NOT ' if query.trashed else ''}NULL"], []
    for column in ("family", "method", "origin"):
        if wanted := getattr(query, column):
            clauses.append(f"{column} = ?")
            values.append(wanted)
    if query.tag:
        clauses.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ? COLLATE NOCASE)")
        values.append(query.tag)
    for word in query.words.casefold().split()[:12]:
        clauses.append("instr(words, ?)")
        values.append(word)
    return " AND ".join(clauses), values


@lru_cache(maxsize=64)
def search(workspace: Workspace, query: Query, size: int, changes: int) -> Found:
    """A page of the adapters that a query finds; a page beyond the last gives the last.

    changes: `Library.changes()`: as long as it stays, what was found is remembered.

    Raises:
        ConfigError: an unknown order.
    """
    if query.sort not in SORTS:
        raise ConfigError(f"unknown order {query.sort!r}{nearest(query.sort, SORTS)}")
    where, values = _where(query)
    with workspace.read() as db:
        total = db.execute(f"SELECT count(*) FROM adapters WHERE {where}", values).fetchone()[0]
        pages = max(1, math.ceil(total / size))
        page = min(query.page, pages - 1)
        # The rows' places first: whole rows are read of one page alone.
        rows = db.execute(
            f"SELECT * FROM adapters WHERE rowid IN (SELECT rowid FROM adapters WHERE {where} "
            f"ORDER BY {SORTS[query.sort][1]} LIMIT ? OFFSET ?) ORDER BY {SORTS[query.sort][1]}",
            (*values, size, page * size),
        ).fetchall()
    entries = [entry_of(row, workspace.root) for row in rows]
    return Found(entries=entries, total=total, page=page, pages=pages)


@lru_cache(maxsize=4)
def facets(workspace: Workspace, changes: int) -> Facets:
    """What the adapters outside of the trash can be filtered by. changes: as for `search`."""
    counted: dict[str, dict[str, int]] = {}
    with workspace.read() as db:
        for column in ("family", "method", "origin"):
            rows = db.execute(
                f"SELECT {column}, count(*) FROM adapters WHERE trashed IS NULL GROUP BY 1 ORDER BY 2 DESC"
            )
            counted[column] = {value: number for value, number in rows if value}
        tags: Counter[str] = Counter()
        for (value,) in db.execute(
            "SELECT json_each.value FROM adapters, json_each(adapters.tags) "
            "WHERE trashed IS NULL AND tags <> '[]'"
        ):
            tags[str(value)] += 1
        trashed = db.execute("SELECT count(*) FROM adapters WHERE trashed IS NOT NULL").fetchone()[0]
    total = sum(counted["origin"].values())
    return Facets(**counted, tag=dict(tags.most_common()), total=total, trashed=trashed)
