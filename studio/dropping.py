"""What is dropped on a set of pictures, put into it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.datasets import MAX_PICTURES, Datasets, Taken
from studio.dropped import Dropped, Refused, Sorted, key
from studio.examples import ExampleSet
from studio.ingest import Good, Ingest, ingesting


def take(datasets: Datasets, dataset_id: str, files: Sequence[tuple[Path, str]]) -> Taken:
    """Add files to a set: see `Datasets.take`."""
    known = {item.sha256 for item in datasets.get(dataset_id).items}
    with ingesting(datasets.pictures) as taking:
        good, rest = taking.take([Dropped(path, name) for path, name in files], known, MAX_PICTURES)
        with datasets.changing(dataset_id) as db:
            added = _add(db, dataset_id, good, rest.refused)
        captions = _captions(datasets, dataset_id, taking, rest)
        masks = _masks(datasets, dataset_id, taking, rest)
    captions += sum(bool(one.caption) for one in good)
    masks += sum(one.mask is not None for one in good)
    notes = list(rest.notes)
    if captions:
        notes.append(f"{captions} caption{'s'[: captions > 1]} came with the pictures")
    if masks:
        notes.append(f"{masks} mask{'s'[: masks > 1]} came along: set “Masks” to “file” to use them")
    return Taken(added, tuple(rest.refused), tuple(notes))


def take_new(datasets: Datasets, name: str, settings: Mapping[str, Any], example: ExampleSet) -> str:
    """Make a set of an example's pictures and captions, in one transaction; returns its id."""
    with ingesting(datasets.pictures) as taking:
        files = [Dropped(path, path.name) for path in example.pictures]
        good, rest = taking.take(files, set(), MAX_PICTURES)
        with datasets.workspace.write() as db:
            dataset_id = datasets.insert(db, name, settings)
            with_words = [replace(one, caption=example.captions.get(one.name)) for one in good]
            _add(db, dataset_id, with_words, rest.refused)
    return dataset_id


def _add(db: sqlite3.Connection, dataset_id: str, good: Sequence[Good], refused: list[Refused]) -> int:
    """Put pictures at the end of a set, each once; returns how many."""
    rows = db.execute(
        "SELECT position, sha256, name FROM dataset_pictures WHERE dataset = ?", (dataset_id,)
    ).fetchall()
    known = {row["sha256"]: row["name"] for row in rows}
    position = begin = max((row["position"] for row in rows), default=-1) + 1
    for one in good:
        sha256, mask = one.picture.sha256, one.mask.sha256 if one.mask else ""
        if sha256 in known:
            refused.append(Refused(one.name, _again(db, dataset_id, one, known[sha256])))
        elif len(known) >= MAX_PICTURES:
            reason = f"is too many: a set holds {MAX_PICTURES} pictures; make a second one"
            refused.append(Refused(one.name, reason))
        else:
            db.execute(
                "INSERT INTO dataset_pictures (dataset, position, sha256, name, caption, mask) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (dataset_id, position, sha256, one.name, one.caption or "", mask),
            )
            known[sha256] = one.name
            position += 1
    return position - begin


def _again(db: sqlite3.Connection, dataset_id: str, one: Good, known: str) -> str:
    """Let a picture that is there have what lay beside it this time; returns what is to be said."""
    same = "is there already" if known == one.name else f"is the same picture as {known!r}, which is there"
    if not one.caption and one.mask is None:
        return f"{same}; once is enough"
    db.execute(
        "UPDATE dataset_pictures SET caption = coalesce(?, caption), mask = coalesce(?, mask) "
        "WHERE dataset = ? AND sha256 = ?",
        (one.caption or None, one.mask.sha256 if one.mask else None, dataset_id, one.picture.sha256),
    )
    return f"{same}; what lay beside it was taken"


def _captions(datasets: Datasets, dataset_id: str, taking: Ingest, rest: Sorted) -> int:
    """Give captions that came alone to the pictures that are there; returns how many."""
    there = {key("", item.name)[1]: item for item in datasets.get(dataset_id).items}
    given = 0
    for (_, stem), one in rest.captions.items():
        item = there.get(stem)
        if item is None:
            rest.refused.append(Refused(one.shown, "has no picture of its name; drop both together"))
        elif (text := taking.caption(one, rest.refused)) is not None:
            datasets.caption(dataset_id, item.sha256, text)
            given += 1
    return given


def _masks(datasets: Datasets, dataset_id: str, taking: Ingest, rest: Sorted) -> int:
    """The same for masks."""
    there = {key("", item.name)[1]: item for item in datasets.get(dataset_id).items}
    given = 0
    for (_, stem), one in rest.masks.items():
        item = there.get(stem)
        if item is None:
            rest.refused.append(Refused(one.shown, "is a mask of no picture; drop both together"))
        elif (mask := taking.mask(one, (item.width, item.height), rest.refused)) is not None:
            datasets.mask(dataset_id, item.sha256, mask.sha256)
            given += 1
    return given
