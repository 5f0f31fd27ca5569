"""`pigment inspect|export|convert|resize|extract|metadata|import`: one adapter file in, another out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError, ConfigError
from studio.commands.arguments import (
    Parser,
    adapter_file,
    adapter_target,
    add_json,
    add_part,
    add_rank,
    add_writing,
    place,
    rank_rule,
    say,
    target,
    the_adapter,
    the_library,
    workspace_options,
)
from studio.commands.base_options import (
    BASE_HELP,
    base_path,
    load,
    refuse_idle_base,
    refuse_idle_placing,
    the_base,
)
from studio.commands.inspecting import inspect, weights_of


def export(args: argparse.Namespace) -> int:
    """Write an adapter for other tools, and prove it."""
    path = adapter_file(args.adapter, args)
    out = adapter_target(args, path.stem, path)
    from pipelines.export import export_adapter

    if args.no_picture:
        refuse_idle_base(args, "with --no-picture")
    base = None if args.no_picture else the_base(args)
    adapter = the_adapter(path, args, base)
    if args.only:
        from pipelines.tools import half

        adapter = half(adapter, args.only)
    rule = rank_rule(args)
    if args.as_lora and rule is None:
        raise ConfigError("--as-lora needs --rank, --energy or --error")
    if rule is not None and not args.as_lora:
        raise ConfigError("--rank, --energy and --error belong to --as-lora; or use pigment resize")
    report = export_adapter(
        adapter, out, args.format, args.dtype, base=base, as_lora=rule, allow_left_out=args.allow_left_out
    )
    say(args, report.as_text(), report.as_dict())
    return 0


def convert(args: argparse.Namespace) -> int:
    """Write an adapter in another form or precision; read back, without a base and a picture."""
    path = adapter_file(args.adapter, args)
    out = adapter_target(args, path.stem, path)
    from pipelines.export import export_adapter

    if not args.part:
        refuse_idle_base(args, "without --part")
    refuse_idle_placing(args, "convert")
    base = the_base(args) if args.part else None
    report = export_adapter(the_adapter(path, args, base), out, args.format, args.dtype)
    say(args, report.as_text(), report.as_dict())
    return 0


def resize(args: argparse.Namespace) -> int:
    """Write an adapter with another rank."""
    path = adapter_file(args.adapter, args)
    out = adapter_target(args, f"{path.stem}-resized", path)
    rule = rank_rule(args)
    if rule is None:
        raise ConfigError("resize needs --rank, --energy or --error; see pigment resize --help")
    from pipelines.export import export_adapter
    from pipelines.formats import read_adapter
    from pipelines.tools import resize as resized

    adapter = read_adapter(path)
    base = weights_of(args, [adapter], "resize")
    smaller, report = resized(adapter, rule, base)
    written = export_adapter(smaller, out, args.format, args.dtype)
    data = {"resize": report.as_dict(), "export": written.as_dict()}
    say(args, f"{report.as_text()}\n{written.as_text()}", data)
    return 0


def extract(args: argparse.Namespace) -> int:
    """Make an adapter of what a tuned base differs in from another."""
    refuse_idle_placing(args, "extract")
    base_path(args.tuned, args.workspace)
    out = adapter_target(args, f"{Path(args.tuned).name}-extracted", None)
    rule = rank_rule(args)
    if rule is None:
        raise ConfigError("extract needs --rank, --energy or --error; see pigment extract --help")
    from pipelines.export import export_adapter
    from pipelines.tools import extract as extracted

    adapter, report = extracted(load(args, args.tuned), the_base(args), rule, name=args.name or out.stem)
    written = export_adapter(adapter, out, args.format, args.dtype)
    data = {"extract": report.as_dict(), "export": written.as_dict()}
    say(args, f"{report.as_text()}\n{written.as_text()}", data)
    return 0


def metadata(args: argparse.Namespace) -> int:
    """Change what a file says about itself; its tensors stay byte for byte."""
    path = adapter_file(args.adapter, args)
    out = None if args.out is None else target(args.out, "", None)
    changes: dict[str, str | None] = dict.fromkeys(args.remove)
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {item!r} has no value; write NAME=VALUE, such as author=Ada")
        changes[name] = value
    if not changes:
        raise ConfigError("nothing to change; give --set NAME=VALUE or --remove NAME")
    from pipelines.formats import edit_metadata

    sha256 = edit_metadata(path, changes, out)
    written = str(out or path)
    say(args, f"{written}: {len(changes)} changed\nSHA-256: {sha256}", {"path": written, "sha256": sha256})
    return 0


def take(args: argparse.Namespace) -> int:
    """Take adapter files, zips and PEFT's folders into the library, with what lies beside them."""
    from pipelines.formats import inspect_adapter
    from studio.importing import beside, take_folder
    from studio.importing import take as taken

    path = place(args.file)
    library = the_library(args)
    if path.is_dir():
        found = take_folder(library, path)
    else:
        if path.is_file() and path.suffix.lower() == ".safetensors":
            inspect_adapter(path)  # refuses most of what is wrong before torch is loaded
        found = taken(library, beside(path))
    if found.refused and not found.entries:
        raise AdapterError("; ".join(f"{name}: {reason}" for name, reason in found.refused[:3]))
    if args.name and len(found.entries) != 1:
        raise ConfigError(f"--name is for one adapter, {len(found.entries)} came in; rename them afterwards")
    for entry, new in found.entries:
        shown = library.rename(entry.id, args.name) if args.name and new else entry
        print(f"{shown.name}: {'imported' if new else 'was in the library already'} ({shown.path})")
    for name, reason in found.refused:
        print(f"{name}: {reason}", file=sys.stderr)
    return 0


def add_commands(commands: Any, shared: Parser) -> None:
    """Add this module's commands to the parser."""
    place_only = workspace_options()
    parser = commands.add_parser(
        "inspect", parents=[shared], help="say what an adapter file, a folder of them, or a recipe is"
    )
    parser.add_argument("file", help="file, folder, recipe, or name in the library")
    parser.add_argument(
        "--anatomy",
        action="store_true",
        help="‖ΔW‖ per block, effective ranks, dead modules (reads the numbers)",
    )
    parser.add_argument(
        "--against-base", action="store_true", help="with --anatomy: relative to the weights of --base"
    )
    add_json(parser)
    parser.set_defaults(run=inspect)

    parser = commands.add_parser(
        "export", parents=[shared], help="write an adapter for other tools, and prove that they read it"
    )
    parser.add_argument("adapter", help="file, or name in the library")
    add_writing(parser)
    parser.add_argument(
        "--as-lora",
        action="store_true",
        help="turn any method into plain LoRA by SVD; needs one of the next three",
    )
    add_rank(parser)
    parser.add_argument(
        "--only",
        choices=("weights", "words"),
        help="of an adapter with learned words: other tools take weights and words as two files",
    )
    parser.add_argument(
        "--allow-left-out",
        action="store_true",
        help="with --as-lora: leave out changes of biases and norms, and say so",
    )
    parser.add_argument(
        "--no-picture", action="store_true", help="load no base: compare no picture, ask no other library"
    )
    add_part(parser)
    add_json(parser)
    parser.set_defaults(run=export)

    parser = commands.add_parser(
        "convert", parents=[shared], help="write an adapter in another form or precision"
    )
    parser.add_argument("adapter", help="file, or name in the library")
    add_writing(parser)
    add_part(parser)
    add_json(parser)
    parser.set_defaults(run=convert)

    parser = commands.add_parser("resize", parents=[shared], help="change an adapter's rank by SVD")
    parser.add_argument("adapter", help="file, or name in the library")
    add_rank(parser)
    add_writing(parser)
    add_json(parser)
    parser.set_defaults(run=resize)

    parser = commands.add_parser(
        "extract", parents=[shared], help="make an adapter of what a tuned base differs in from --base"
    )
    parser.add_argument("tuned", help=f"the tuned base: {BASE_HELP}")
    parser.add_argument("--name", default="", help="of the adapter; default: the file's")
    add_rank(parser)
    add_writing(parser)
    add_json(parser)
    parser.set_defaults(run=extract)

    parser = commands.add_parser(
        "metadata",
        parents=[place_only],
        help="change what a file says about itself, and not its tensors",
    )
    parser.add_argument("adapter", help="file, or name in the library")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="title, triggers, description, author, license, notes, cover (a picture file), or any key",
    )
    parser.add_argument("--remove", action="append", default=[], metavar="NAME")
    parser.add_argument("--out", default=None, metavar="FILE", help="default: the file itself")
    add_json(parser)
    parser.set_defaults(run=metadata)

    parser = commands.add_parser("import", parents=[place_only], help="take an adapter into the library")
    parser.add_argument("file", help="a .safetensors file, a zip, or a folder that PEFT wrote")
    parser.add_argument("--name", default="", help="default: the title in the file")
    parser.set_defaults(run=take)
