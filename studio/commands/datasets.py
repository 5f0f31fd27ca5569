"""The commands `pigment dataset …`: sets of pictures to teach with."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, PictureError, WorkspaceError, nearest
from studio.commands.arguments import Parser, add_json, place, say, workspace_options

if TYPE_CHECKING:
    from studio.datasets import Dataset, Datasets, Item

RECENT = 1000  # sets that a name is looked for in


def _datasets(args: argparse.Namespace) -> Datasets:
    from studio.datasets import Datasets
    from studio.workspace import Workspace

    return Datasets(Workspace.open(args.workspace, own=False))


def _many(count: int) -> str:
    return f"{count} picture{'s' if count != 1 else ''}"


def find_dataset(datasets: Datasets, ref: str) -> Dataset:
    """The set that `ref` names: an id, or a name, in any case of letters.

    Raises:
        WorkspaceError: none is named so, or several are.
    """
    recent = datasets.recent(RECENT)
    found = [one for one in recent if one.id == ref] or [
        one for one in recent if one.name and one.name.casefold() == ref.casefold()
    ]
    if len(found) > 1:
        ids = ", ".join(one.id for one in found[:4])
        raise WorkspaceError(f"{len(found)} sets are named {ref!r}; choose one by its id: {ids}")
    if not found:
        names = {name for one in recent for name in (one.id, one.name) if name}
        raise WorkspaceError(f"no set of pictures {ref!r}{nearest(ref, names)}")
    return datasets.get(found[0].id)


def find_item(dataset: Dataset, ref: str) -> Item:
    """The picture that `ref` names: its file's name, its number in the set from 1, or its content hash.

    Raises:
        PictureError: none is named so, or several are.
    """
    found = [one for one in dataset.items if ref in (one.name, one.sha256)]
    if not found and ref.isdigit() and 0 < int(ref) <= len(dataset.items):
        return dataset.items[int(ref) - 1]
    if len(found) != 1:
        names = [one.name for one in dataset.items]
        many = f"{len(found)} pictures are named {ref!r}; give the number of one"
        raise PictureError(many if found else f"no picture {ref!r} in the set{nearest(ref, names)}")
    return found[0]


def _files(given: list[str]) -> Iterator[tuple[Path, str]]:
    """The files that were named, and those of the folders that were, masks in a folder of their own too."""
    for ref in given:
        path = place(ref)
        if not path.is_dir():
            if not path.is_file():
                raise ConfigError(f"no file or folder {ref!r}; give pictures, zips, or a folder of them")
            yield path, path.name
            continue
        for one in sorted(path.iterdir()):
            if one.is_file() and not one.name.startswith("."):
                yield one, one.name
        for one in sorted((path / "masks").iterdir()) if (path / "masks").is_dir() else ():
            if one.is_file() and not one.name.startswith("."):
                yield one, f"{one.stem}.mask{one.suffix}"


def listed(args: argparse.Namespace) -> int:
    """List the sets."""
    datasets = _datasets(args)
    found = [datasets.get(one.id) for one in datasets.recent(RECENT)]
    when = [time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed)) for one in found]
    lines = [
        f"{one.id}  {at}  {one.name or '(no name)'}: {_many(len(one.items))}"
        for one, at in zip(found, when, strict=True)
    ]
    data = [
        {"id": one.id, "name": one.name, "pictures": len(one.items), "changed": one.changed} for one in found
    ]
    say(args, "\n".join(lines) or "no sets of pictures yet; make one with pigment dataset add FILES", data)
    return 0


def add(args: argparse.Namespace) -> int:
    """Put files into a set, or make one of them. Exit code 2 where nothing was taken."""
    datasets = _datasets(args)
    files = list(_files(args.files))
    if args.to and args.name:
        raise ConfigError("--name is for a new set; leave --to or --name out")
    if not files and not args.example:
        raise ConfigError("nothing to add; give pictures, zips or a folder, or --example ID")
    if args.example:
        if args.to:
            raise ConfigError("--example makes a new set; leave --to or --example out")
        made = datasets.from_example(args.example)
        made = datasets.rename(made.id, args.name) if args.name else made
    else:
        made = find_dataset(datasets, args.to) if args.to else datasets.new(args.name)
    taken = datasets.take(made.id, files) if files else None
    made = datasets.get(made.id)
    if not made.items and not args.to:
        datasets.delete(made.id)
    lines = [f"{made.name or made.id}: {_many(len(made.items))} ({made.id})"] if made.items else []
    lines += [f"refused: {one.line()}" for one in taken.refused] + [*taken.notes] if taken else []
    refused = [{"name": one.name, "reason": one.reason} for one in taken.refused] if taken else []
    data = {
        "id": made.id if made.items else None, "pictures": len(made.items),
        "added": taken.added if taken else len(made.items), "refused": refused,
        "notes": list(taken.notes) if taken else [],
    }  # fmt: skip
    say(args, "\n".join(lines), data)
    return 0 if made.items else 2


def show(args: argparse.Namespace) -> int:
    """Say what is in a set."""
    made = find_dataset(_datasets(args), args.set)
    lines = [f"{made.name or '(no name)'}: {_many(len(made.items))} ({made.id})"]
    for number, item in enumerate(made.items, 1):
        notes = "".join(f" ({note})" for note in item.notes) + (" (masked)" if item.mask else "")
        lines.append(f"{number:4}  {item.name}  {item.width}×{item.height}{notes}")
        lines += [f"      {item.caption}"] if item.caption else []
    say(args, "\n".join(lines), {**vars(made), "items": [vars(item) for item in made.items]})
    return 0


def check(args: argparse.Namespace) -> int:
    """Let the doctor look at a set, say what is cut off its pictures, and what teaching it takes here."""
    from studio.commands.checking import checked

    datasets = _datasets(args)
    text, data = checked(datasets, find_dataset(datasets, args.set), args.preset, args.kind, args.trigger)
    say(args, text, data)
    return 0


def write(args: argparse.Namespace) -> int:
    """Write the caption of a picture."""
    datasets = _datasets(args)
    made = find_dataset(datasets, args.set)
    datasets.caption(made.id, find_item(made, args.picture).sha256, args.text)
    return 0


def remove(args: argparse.Namespace) -> int:
    """Take pictures out of a set, or remove it whole."""
    datasets = _datasets(args)
    made = find_dataset(datasets, args.set)
    for item in [find_item(made, ref) for ref in args.pictures]:
        datasets.remove(made.id, item.sha256)
    if not args.pictures:
        datasets.delete(made.id)
    what = f"{len(args.pictures)} of its pictures" if args.pictures else "the set; its files stay"
    say(args, f"{made.name or made.id}: removed {what}", {"id": made.id, "removed": args.pictures or True})
    return 0


def put(args: argparse.Namespace) -> int:
    """Write a set into a folder as trainings read it."""
    folder = place(args.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{args.folder!r} is there and not empty; give a new folder")
    if not folder.absolute().parent.is_dir():
        raise ConfigError(f"folder {str(folder.absolute().parent)!r} isn't there; make it first")
    datasets = _datasets(args)
    made = find_dataset(datasets, args.set)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".pigment-") as scratch:
        called = datasets.lay_out(made.id, Path(scratch) / "set")
        if folder.exists():
            folder.rmdir()
        (Path(scratch) / "set").rename(folder)
    say(args, f"{folder}: {_many(len(called))}", {"folder": str(folder), "pictures": called})
    return 0


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    shared = workspace_options()
    dataset = commands.add_parser("dataset", help="sets of pictures to teach with")
    parts = dataset.add_subparsers(dest="part", required=True, metavar="PART")

    def command(name: str, run: Any, help: str, *, of: str = "set") -> Parser:
        parser: Parser = parts.add_parser(name, parents=[shared], help=help)
        if of:
            parser.add_argument(of, help="id or name of a set")
        parser.set_defaults(run=run)
        add_json(parser)
        return parser

    command("list", listed, "list the sets, the last changed first", of="")
    parser = command("add", add, "put pictures into a new set, or into one that is there", of="")
    parser.add_argument(
        "files", nargs="*", help="pictures, zips, captions (a.txt), masks (a.mask.png), folders"
    )
    parser.add_argument("--to", default="", metavar="SET", help="id or name of a set; default: a new one")
    parser.add_argument("--name", default="", help="of the new set")
    parser.add_argument("--example", default="", metavar="ID", help="begin with an example set, as mascot")
    command("show", show, "say what is in a set")
    parser = command("check", check, "let the doctor look at a set, and estimate what teaching it takes here")
    parser.add_argument("--preset", default="standard", help="sketch, standard or thorough")
    parser.add_argument("--kind", default="", help="subject or style; default: as the set says, else subject")
    parser.add_argument(
        "--trigger", default="", help="word that calls what is learned; default: as the set says"
    )
    parser = command("caption", write, "write the caption of a picture")
    parser.add_argument("picture", help="its file's name, or its number in the set")
    parser.add_argument("text", help="what it shows; “” for nothing")
    parser = command("remove", remove, "take pictures out of a set, or remove it whole")
    parser.add_argument("pictures", nargs="*", help="names or numbers; none: the whole set")
    parser = command("put", put, "write a set into a new folder, as pigment train reads it")
    parser.add_argument("folder")
