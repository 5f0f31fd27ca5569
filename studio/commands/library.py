"""`pigment library …`: the adapters of the workspace, as the page's library shows and changes them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError, ConfigError, nearest
from studio.commands.arguments import add_json, place, say, the_library, workspace_options


def _entry(args: argparse.Namespace, name: str, *, trashed: bool = False) -> Any:
    """The adapter that a person means. Raises: AdapterError."""
    library = the_library(args)
    if not trashed:
        found = library.find(name)
        if found is not None:
            return found
        names = [one.short for one in library.entries()]
        raise AdapterError(f"no adapter {name!r} in the library{nearest(name, names)}")
    entries = library.entries(trashed=True)
    for entry in entries:
        if entry.called(name):
            return entry
    raise AdapterError(f"no adapter {name!r} in the trash{nearest(name, [one.short for one in entries])}")


def _data(entry: Any) -> dict[str, Any]:
    return {
        "id": entry.id, "name": entry.name, "path": str(entry.path), "family": entry.family,
        "method": entry.method, "rank": entry.rank, "bytes": entry.bytes, "triggers": entry.triggers,
        "tags": list(entry.tags), "notes": entry.notes, "origin": entry.origin, "sha256": entry.sha256,
        "created": entry.created, "trashed": entry.trashed, "cover": entry.cover,
    }  # fmt: skip


def _line(entry: Any) -> str:
    said = [entry.family, entry.method, *([f"rank {entry.rank}"] if entry.rank else [])]
    words = f" [{', '.join(entry.triggers)}]" if entry.triggers else ""
    tags = "".join(f" #{tag}" for tag in entry.tags)
    return f"{entry.name}: {', '.join(said)}, {entry.bytes:,} bytes{words}{tags}"


def list_some(args: argparse.Namespace) -> int:
    """What is searched for, a page at a time."""
    from studio.searching import Query

    if args.page < 1:
        raise ConfigError(f"--page is {args.page}; the first is 1")
    query = Query(
        words=" ".join(args.words)[:200], family=args.family, method=args.method, tag=args.tag,
        origin=args.origin, trashed=args.trashed, sort=args.sort, page=args.page - 1,
    )  # fmt: skip
    found = the_library(args).search(query, args.size)
    lines = [_line(entry) for entry in found.entries]
    lines.append(f"{found.total} adapters, page {found.page + 1} of {found.pages}")
    data = {"total": found.total, "page": found.page + 1, "pages": found.pages}
    say(args, "\n".join(lines), {**data, "adapters": [_data(entry) for entry in found.entries]})
    return 0


def show(args: argparse.Namespace) -> int:
    """One adapter whole."""
    from studio.amending import stated
    from studio.entries import ORIGINS

    entry = _entry(args, args.name)
    info = stated(entry)
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    lines = [_line(entry), f"{ORIGINS.get(entry.origin, entry.origin)}, {made}", str(entry.path)]
    lines += [f"SHA-256: {entry.sha256}"]
    lines += [f"notes: {entry.notes}"] if entry.notes else []
    shown = {key: str(value) for key, value in info["metadata"].items() if len(str(value)) <= 200}
    lines += [f"  {key}: {value}" for key, value in sorted(shown.items())]
    say(args, "\n".join(lines), {**_data(entry), "info": info})
    return 0


def tag(args: argparse.Namespace) -> int:
    """Add tags, or take them away."""
    if not args.tags and not args.remove:
        raise ConfigError("no tag is given; write pigment library tag NAME TAG… [--remove TAG]")
    entry = _entry(args, args.name)
    away = {one.casefold() for one in args.remove}
    kept = [one for one in [*entry.tags, *args.tags] if one.casefold() not in away]
    return _told(args, the_library(args).tag(entry.id, kept), "tags: {tags}")


def note(args: argparse.Namespace) -> int:
    """Keep a note; an empty one takes it away."""
    entry = _entry(args, args.name)
    return _told(args, the_library(args).note(entry.id, args.text), "note kept")


def rename(args: argparse.Namespace) -> int:
    """Give another name."""
    entry = _entry(args, args.name)
    return _told(args, the_library(args).rename(entry.id, args.new), f"was {entry.name!r}")


def cover(args: argparse.Namespace) -> int:
    """Show a picture: a file's, or one that was drawn."""
    from studio.covers import set_cover

    entry, source = _entry(args, args.name), place(args.picture)
    library = the_library(args)
    chosen: str | Path = source if source.is_file() else args.picture
    if isinstance(chosen, str) and "/" not in chosen:
        chosen = f"image/{chosen}"
    set_cover(library, entry.id, chosen)
    return _told(args, library.get(entry.id), "cover set")


def edit(args: argparse.Namespace) -> int:
    """Change what its file says about itself."""
    from studio.amending import amend

    changes: dict[str, str | None] = dict.fromkeys(args.remove)
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {item!r} has no value; write FIELD=VALUE, such as author=Ada")
        changes[key] = value
    if not changes:
        raise ConfigError("nothing to change; give --set FIELD=VALUE or --remove FIELD")
    entry = _entry(args, args.name)
    return _told(args, amend(the_library(args), entry.id, changes), f"{len(changes)} changed in its file")


def trash(args: argparse.Namespace) -> int:
    """Put adapters into the trash."""
    for name in args.names:
        entry = _entry(args, name)
        the_library(args).trash(entry.id)
        print(f"{entry.name} is in the trash; pigment library restore {entry.short!r} brings it back")
    return 0


def restore(args: argparse.Namespace) -> int:
    """Bring adapters back from the trash."""
    for name in args.names:
        entry = the_library(args).restore(_entry(args, name, trashed=True).id)
        print(f"{entry.name} is back")
    return 0


def empty(args: argparse.Namespace) -> int:
    """Remove what is in the trash for good."""
    if not args.yes:
        raise ConfigError("this removes files for good; add --yes")
    number = the_library(args).empty_trash()
    say(args, f"{number} removed for good", {"removed": number})
    return 0


def check(args: argparse.Namespace) -> int:
    """Compare every file with the SHA-256 that it was taken in with."""
    from studio.amending import check as compare

    library = the_library(args)
    entries, wrong = library.entries(), []
    for entry in entries:
        try:
            compare(entry)
        except AdapterError as error:
            wrong.append({"name": entry.name, "problem": str(error)})
    lines = [one["problem"] for one in wrong]
    lines.append(f"{len(entries) - len(wrong)} of {len(entries)} files are as they were taken in")
    say(args, "\n".join(lines), {"checked": len(entries), "changed": wrong})
    return 1 if wrong else 0


def _told(args: argparse.Namespace, entry: Any, what: str) -> int:
    text = what.format(tags=", ".join(entry.tags) or "none") if "{tags}" in what else what
    say(args, f"{entry.name}: {text}", _data(entry))
    return 0


def add_commands(commands: Any) -> None:
    """Add `library` with its verbs to the parser."""
    from studio.searching import PAGE, SORTS

    parser = commands.add_parser("library", help="the adapters: search, tag, note, cover, rename, trash …")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = workspace_options()

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, *, json: bool = True) -> Any:
        one = verbs.add_parser(name, parents=[shared], help=text)
        one.set_defaults(run=run)
        if json:
            add_json(one)
        return one

    one = verb("list", list_some, "search and list")
    one.add_argument("words", nargs="*", help="all must occur in names, triggers, tags, notes")
    for field in ("family", "method", "tag", "origin"):
        one.add_argument(f"--{field}", default="", metavar=field.upper())
    one.add_argument("--sort", choices=list(SORTS), default="newest")
    one.add_argument("--trashed", action="store_true", help="those in the trash")
    one.add_argument("--page", type=int, default=1)
    one.add_argument("--size", type=int, default=PAGE, choices=range(1, 1001), metavar="N")
    verb("show", show, "everything known of one").add_argument("name")
    one = verb("tag", tag, "add tags, or take them away")
    one.add_argument("name")
    one.add_argument("tags", nargs="*")
    one.add_argument("--remove", action="append", default=[], metavar="TAG")
    one = verb("note", note, "keep your notes on one")
    one.add_argument("name")
    one.add_argument("text")
    one = verb("rename", rename, "give another name")
    one.add_argument("name")
    one.add_argument("new")
    one = verb("cover", cover, "show a picture for one")
    one.add_argument("name")
    one.add_argument("picture", help="a PNG, JPEG or WebP, or the id of a drawn picture")
    one = verb("edit", edit, "change what its file says: triggers, description, author, license, notes")
    one.add_argument("name")
    one.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    one.add_argument("--remove", action="append", default=[], metavar="FIELD")
    verb("trash", trash, "put some into the trash", json=False).add_argument("names", nargs="+")
    verb("restore", restore, "bring some back", json=False).add_argument("names", nargs="+")
    verb("empty", empty, "remove what is in the trash for good").add_argument("--yes", action="store_true")
    verb("check", check, "compare files with the SHA-256 they were taken in with")
