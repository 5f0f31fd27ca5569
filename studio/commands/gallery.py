"""`pigment gallery list|show|trash|restore|empty|export`: the pictures that were drawn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, PictureError
from studio.commands.arguments import Parser, add_json, place, say, workspace_options

if TYPE_CHECKING:
    from studio.gallery import Drawn, Gallery

SHORT = 4  # characters of an id, of which the end tells pictures apart, that are needed at least


def _gallery(args: argparse.Namespace) -> Gallery:
    from studio.gallery import Gallery
    from studio.workspace import Workspace

    return Gallery(Workspace.open(args.workspace, own=False))


def _data(drawn: Drawn) -> dict[str, Any]:
    return {
        "id": drawn.id, "file": str(drawn.path), "kind": drawn.kind, "seed": drawn.seed,
        "prompt": drawn.prompt, "width": drawn.width, "height": drawn.height, "job": drawn.job,
        "created": drawn.created, "trashed": drawn.trashed,
    }  # fmt: skip


def _line(drawn: Drawn) -> str:
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(drawn.created))
    prompt = drawn.prompt if len(drawn.prompt) <= 60 else f"{drawn.prompt[:60]}…"
    return f"{drawn.id}  {date}  {drawn.width}×{drawn.height}  seed {drawn.seed}  {prompt}"


def _list(args: argparse.Namespace) -> int:
    """Print a page of the pictures that a search finds."""
    if args.page < 1 or not 1 <= args.size <= 1000:
        raise ConfigError("--page counts from 1, and --size is 1 to 1000; give such numbers")
    found = _gallery(args).search(
        " ".join(args.words), args.page - 1, size=args.size, kind=args.kind, trashed=args.trash
    )
    rest = f"page {found.page + 1} of {found.pages}, {found.total} in all"
    lines = [_line(one) for one in found.pictures]
    data = {"total": found.total, "page": found.page + 1, "pages": found.pages,
            "pictures": [_data(one) for one in found.pictures]}  # fmt: skip
    say(args, "\n".join([*lines, rest]) if lines else "no pictures found", data)
    return 0


def _show(args: argparse.Namespace) -> int:
    """Print everything that a picture was drawn with."""
    from studio import telling

    drawn = _gallery(args).get(_one(args, args.picture))
    told = drawn.generation
    used = ", ".join(f"{name} {weight:g}" for name, weight in telling.adapters(told))
    rows = {
        "File": str(drawn.path), "Prompt": drawn.prompt,
        "Negative prompt": str(told.get("negative_prompt") or ""), "Adapters": used,
        "Grid": telling.varied(drawn.settings), **telling.facts(told), **telling.base(drawn.settings),
    }  # fmt: skip
    text = "\n".join(f"{name}: {value}" for name, value in rows.items() if value)
    say(args, text, {**_data(drawn), "settings": drawn.settings})
    return 0


def _one(args: argparse.Namespace, name: str) -> str:
    """The id of a picture by its id or the end of it. Raises: PictureError for none, or several."""
    ids = _gallery(args).ending(name) if len(name) >= SHORT else []
    if len(ids) != 1:
        found = (
            f"{len(ids)} pictures end in {name[:80]!r}" if ids else f"no picture {name[:80]!r} in the gallery"
        )
        raise PictureError(f"{found}; give an id that pigment gallery list prints, or its last letters")
    return ids[0]


def _moving(verb: str, word: str) -> Callable[[argparse.Namespace], int]:
    def move(args: argparse.Namespace) -> int:
        ids = [_one(args, name) for name in args.pictures]
        count = getattr(_gallery(args), verb)(ids)
        print(f"{count} of {len(ids)} pictures {word}")
        return 0

    return move


def _empty(args: argparse.Namespace) -> int:
    """Remove what is in the trash for good."""
    from studio.markup import size

    if not args.yes:
        waiting = _gallery(args).search(trashed=True, size=1).total
        raise ConfigError(f"{waiting} pictures would be removed for good; say --yes if you mean it")
    removed, freed = _gallery(args).empty_trash()
    print(f"{removed} pictures removed for good, {size(freed)} free again")
    return 0


def _export(args: argparse.Namespace) -> int:
    """Copy pictures, with their settings in them, into a folder."""
    from studio.library import copy_file

    folder = place(args.to)
    if not folder.is_dir():
        raise ConfigError(f"--to {args.to!r} is no folder; make it first")
    written = []
    for drawn in (_gallery(args).get(_one(args, name)) for name in args.pictures):
        target = folder / drawn.file_name
        if target.exists():
            raise ConfigError(f"{str(target)!r} is there already; choose another folder with --to")
        copy_file(drawn.path, target)
        written.append(str(target))
    say(args, "\n".join(written), {"written": written})
    return 0


def add_commands(commands: Any) -> None:
    """Add `gallery` with its own commands to the parser."""
    options = workspace_options()
    gallery = commands.add_parser(
        "gallery", help="the pictures that were drawn: find, show, take out, delete"
    )
    inside = gallery.add_subparsers(
        dest="gallery_command", required=True, metavar="COMMAND", parser_class=Parser
    )

    parser = inside.add_parser("list", parents=[options], help="find pictures, the newest first")
    parser.add_argument(
        "words", nargs="*", help="all of them stand in the prompt, adapters, sampler, base or seed"
    )
    parser.add_argument("--kind", choices=("picture", "grid"), default="")
    parser.add_argument("--trash", action="store_true", help="those in the trash")
    parser.add_argument("--page", type=int, default=1, metavar="N", help="from 1")
    parser.add_argument("--size", type=int, default=48, metavar="N", help="pictures on a page (default: 48)")
    add_json(parser)
    parser.set_defaults(run=_list)

    parser = inside.add_parser("show", parents=[options], help="everything that a picture was drawn with")
    parser.add_argument("picture", help="its id, or the last letters of it")
    add_json(parser)
    parser.set_defaults(run=_show)

    moves: Sequence[tuple[str, str, str]] = (
        ("trash", "moved to the trash", "move pictures to the trash"),
        ("restore", "brought back", "bring pictures back from the trash"),
    )
    for verb, word, text in moves:
        parser = inside.add_parser(verb, parents=[options], help=text)
        parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="an id, or the last letters of it")
        parser.set_defaults(run=_moving(verb, word))

    parser = inside.add_parser("empty", parents=[options], help="remove what is in the trash for good")
    parser.add_argument("--yes", action="store_true", help="mean it")
    parser.set_defaults(run=_empty)

    parser = inside.add_parser("export", parents=[options], help="copy pictures into a folder")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="an id, or the last letters of it")
    parser.add_argument("--to", default=".", metavar="DIR", help="default: the present folder")
    add_json(parser)
    parser.set_defaults(run=_export)
