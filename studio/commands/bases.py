"""`pigment base add|list|info|use|remove|fold`: base models by name, what they are, with a mix folded in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.errors import BaseError, ConfigError
from studio.commands.arguments import (
    WEIGHT_HELP,
    add_json,
    add_part,
    place,
    say,
    workspace_options,
)
from studio.commands.base_options import (
    BASE_HELP,
    FetchLine,
    add_opening,
    base_options,
    load,
    open_base,
)


def _bases(args: argparse.Namespace) -> Any:
    from studio.bases import Bases
    from studio.workspace import Workspace

    return Bases(Workspace.open(args.workspace, own=False))


def add(args: argparse.Namespace) -> int:
    """List a base; a hub id is fetched first."""
    from pipelines.bases.loading import check_fit
    from studio.bases import hub_id, local_ref

    ref = local_ref(args.ref) or hub_id(args.ref)
    if ref is None:
        raise BaseError(
            f"no base {args.ref!r}: no such folder or file; give a diffusers folder, a .safetensors file, or "
            "a hub id (org/name)"
        )
    source = base_options(args).open(ref, on_progress=FetchLine())
    check_fit(source)
    entry, new = _bases(args).add(source, name=args.name)
    text = f"{entry.name}: {entry.info['label']}, {_size(entry.bytes)}, {entry.ref}"
    say(args, text if new else f"{text} (it was in the list)", {**_data(entry), "new": new})
    return 0


def list_all(args: argparse.Namespace) -> int:
    """Show the list."""
    entries = _bases(args).entries()
    lines = ["pocket: embedded"]
    for entry in entries:
        gone = "; its file is gone" if entry.missing else ""
        predicts = f", {entry.prediction_type}" if entry.prediction_type else ""
        lines.append(
            f"{entry.name}: {entry.info['label']}{predicts}, {_size(entry.bytes)}, {entry.ref}{gone}"
        )
    say(args, "\n".join(lines), {"bases": [_data(entry) for entry in entries]})
    return 0


def info(args: argparse.Namespace) -> int:
    """Say what a base is, without loading it."""
    from pipelines.bases.describing import describe
    from pipelines.bases.loading import check_fit

    source = open_base(args, args.ref)
    check_fit(source)
    found = describe(source, hashed=not args.no_hash)
    say(args, found.as_text(), found.as_dict())
    return 0


def remove(args: argparse.Namespace) -> int:
    """Take a base off the list."""
    entry = _bases(args).remove(args.name)
    say(args, f"{entry.name} is off the list; {entry.ref} stays where it is", _data(entry))
    return 0


def use(args: argparse.Namespace) -> int:
    """Say which base the page draws and teaches with; it holds from its next start on."""
    bases = _bases(args)
    if args.name is not None:
        bases.use(args.name)
    name, ref, _ = bases.in_use()
    say(args, f"{name} is drawn and taught with ({ref}); --base goes first", {"name": name, "ref": ref})
    return 0


def fold(args: argparse.Namespace) -> int:
    """Write a base with adapters folded into its weights."""
    from pipelines.formats import read_adapter
    from studio.commands.uses import read_all, uses_of

    out, layout = _target(args)
    uses = uses_of(args.adapter, args)
    source = open_base(args, args.ref)
    if out.resolve() == source.path.resolve():
        raise ConfigError(f"--out {str(out)!r} is the base itself; choose another name")
    from pipelines.bases.writing import write_base

    if source.prediction_type is None:
        source = _settled(args)
    if args.part:
        adapters = read_all(uses, args, load(args, args.ref))
    else:
        adapters = {use.name: read_adapter(use.path, family=source.family.id) for use in uses}
    mix = {use.name: (adapters[use.name], use.weights) for use in uses}
    report = write_base(source, out, layout=layout, dtype=args.dtype, mix=mix, title=_title(args))
    say(args, report.as_text(), report.as_dict())
    return 0


def _title(args: argparse.Namespace) -> str:
    """`--title` on one line. Raises: ConfigError for one that is too long for a title."""
    title = " ".join(args.title.split())
    if len(title) > 200:
        raise ConfigError(f"--title has {len(title):,} characters, at most 200 are kept; shorten it")
    return title


def _settled(args: argparse.Namespace) -> Any:
    """The source of a base whose file doesn't say what it predicts: it is loaded once to find out."""
    loaded = load(args, args.ref)
    assert loaded.source is not None
    return loaded.source


def _target(args: argparse.Namespace) -> tuple[Path, str]:
    """Where to write, and the layout: the one asked for, or the one that the name's ending says."""
    out = place(args.out)
    if not args.out.strip() or out.name.lower() == ".safetensors":
        raise ConfigError(f"--out {args.out!r} is no name; give a name ending in .safetensors, or a folder's")
    file = out.suffix.lower() == ".safetensors"
    layout = args.layout or ("file" if file else "folder")
    if layout == "file" and not file:
        raise ConfigError(f"--out {args.out!r} has another ending; expected a name ending in .safetensors")
    if layout == "folder" and file:
        raise ConfigError(f"--out {args.out!r} looks like a file; give a folder's name, or --layout file")
    if out.exists():
        raise ConfigError(f"--out {args.out!r} is there already; choose another name, or remove it first")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: folder {str(out.absolute().parent)!r} isn't there; make it first")
    return out, layout


def _data(entry: Any) -> dict[str, Any]:
    """A base of the list as JSON has it."""
    return {
        "name": entry.name, "ref": entry.ref, "family": entry.family, "bytes": entry.bytes,
        "prediction_type": entry.prediction_type or None, "sha256": entry.sha256, "missing": entry.missing,
    }  # fmt: skip


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def add_commands(commands: Any) -> None:
    """Add `base` with its verbs to the parser."""
    from pipelines.bases.write_report import LAYOUTS

    parser = commands.add_parser("base", help="base models: add, list, info, use, remove, fold")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = workspace_options()

    one = verbs.add_parser(
        "add", parents=[shared], help="list a base by a name; its files stay where they are"
    )
    one.add_argument("ref", help="a diffusers folder, a .safetensors file, or a hub id, which is fetched")
    one.add_argument("--name", default="", help="default: its file's or repository's name")
    one.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default=None,
                     help="of a hub id: half precision fetches fp16 files where there are (default: what "
                     "suits this machine)")  # fmt: skip
    add_opening(one, vae=False)
    add_json(one)
    one.set_defaults(run=add, device=None)

    one = verbs.add_parser("list", parents=[shared], help="show the list")
    add_json(one)
    one.set_defaults(run=list_all)

    one = verbs.add_parser("info", parents=[shared], help="say what a base is, without loading it")
    one.add_argument("ref", help=BASE_HELP)
    one.add_argument(
        "--no-hash", action="store_true", help="leave the SHA-256 out, which reads the whole file"
    )
    _opened_only(one)
    add_json(one)
    one.set_defaults(run=info)

    one = verbs.add_parser("remove", parents=[shared], help="take a base off the list; its files stay")
    one.add_argument("name")
    add_json(one)
    one.set_defaults(run=remove)

    one = verbs.add_parser(
        "use", parents=[shared], help="which base the page draws and teaches with, from its next start on"
    )
    one.add_argument("name", nargs="?", default=None, help="pocket, or a name of the list; none: say which")
    add_json(one)
    one.set_defaults(run=use)

    one = verbs.add_parser("fold", parents=[shared], help="write a base with a mix folded into its weights")
    one.add_argument("ref", help=BASE_HELP)
    one.add_argument("--adapter", action="append", default=[], metavar="NAME:WEIGHT",
                     help=f"{WEIGHT_HELP}; repeatable; none: the base alone is written")  # fmt: skip
    one.add_argument(
        "--out", required=True, metavar="FILE|DIR", help="a name ending in .safetensors, or a folder's"
    )
    one.add_argument("--layout", choices=list(LAYOUTS), default=None,
                     help="; ".join(f"{name}: {text}" for name, text in LAYOUTS.items())
                     + " (default: by --out's ending)")  # fmt: skip
    one.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], default=None, help="default: as stored")
    one.add_argument("--title", default="", help="default: made of the base's and the adapters' names")
    add_part(one)
    _opened_only(one)
    add_json(one)
    one.set_defaults(run=fold)


def _opened_only(parser: argparse.ArgumentParser) -> None:
    """Of the options of loading those that say what the base is: nothing is computed on a device."""
    add_opening(parser)
    parser.set_defaults(device=None, precision=None)
