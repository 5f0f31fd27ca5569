"""What several commands share: adapters by file or name, weights in one word, output files, printing."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, ConfigError, nearest
from studio.commands.base_options import add_base
from studio.commands.base_options import the_base as the_base

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.lowrank import RankRule
    from pipelines.mixer import Weights
    from studio.library import Library

WEIGHT_SYNTAX = "NAME[:WEIGHT[/TEXT]][,BLOCK=FACTOR…][@BEGIN-END]"
WEIGHT_HELP = (
    f"{WEIGHT_SYNTAX}: an adapter (file, or name in the library), its weight (default 1) and that of the "
    "text encoders, factors per block (mid_block=0), and when it comes in, as shares of the steps (@0.3-0.6)"
)

_WEIGHTS = re.compile(
    r"(?P<unet>[^/,@]*)(?:/(?P<text>[^,@]*))?(?P<blocks>(?:,[^,@]*)*)(?:@(?P<begin>[^-@]*)-(?P<end>[^@]*))?"
)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def place(ref: str) -> Path:
    """A path that a person wrote, `~` included. Raises: ConfigError for one that the system can't look up."""
    try:
        path = Path(ref).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{ref[:80]!r} is no path that can be looked up: {reason[:100]}") from None
    return path


def the_library(args: argparse.Namespace) -> Library:
    """Open the library of `--workspace`, with the examples in it."""
    from studio.library import Library
    from studio.workspace import Workspace

    library = Library(Workspace.open(args.workspace, own=False))
    library.add_examples()
    return library


def adapter_file(ref: str, args: argparse.Namespace) -> Path:
    """The file (or folder of PEFT's) that `ref` names: a path, or the name of an adapter in the library."""
    path = place(ref)
    if path.is_file() or path.is_dir():
        return path
    if path.suffix or len(path.parts) > 1:
        raise AdapterError(
            f"no file {ref!r}; give a .safetensors file or the name of an adapter in the library"
        )
    library = the_library(args)
    entry = library.find(ref)
    if entry is None:
        raise AdapterError(
            f"no adapter {ref!r} in the library{nearest(ref, [one.short for one in library.entries()])}"
        )
    from studio.amending import check

    check(entry)
    return entry.path


def the_adapter(path: Path, args: argparse.Namespace, base: Base | None = None) -> Adapter:
    """Read an adapter whole; with `--part`, what fits, saying on standard error what doesn't."""
    from pipelines.formats import read_adapter, read_part

    family = None if base is None else base.family.id
    if not getattr(args, "part", False):
        return read_adapter(path, family=family)
    adapter, report = read_part(path, base, family=family)
    print(report.as_text(), file=sys.stderr)
    return adapter


def weighted(item: str) -> tuple[str, Weights]:
    """Take `WEIGHT_SYNTAX` apart: the adapter's name, and its weights.

    Raises: ConfigError for what isn't a number; AdapterError for a weight out of its bounds.
    """
    from pipelines.mixing.weights import Weights

    name, colon, rest = item.rpartition(":")
    if colon and place(item).exists():  # a file with a colon in its name, and no weight
        return item, Weights()
    if not colon or (len(name) == 1 and name.isalpha() and rest[:1] in "/\\"):  # C:\file has no weight
        return item, Weights()
    found = _WEIGHTS.fullmatch(rest)
    if found is None:
        raise ConfigError(f"adapter {item!r} isn't understood; write {WEIGHT_SYNTAX}")
    blocks = {}
    for pair in found["blocks"].split(",")[1:]:
        block, equals, factor = pair.partition("=")
        if not equals:
            raise ConfigError(f"adapter {item!r} has {pair!r} for a block; write BLOCK=FACTOR")
        if block.strip() in blocks:
            raise ConfigError(f"adapter {item!r} names block {block.strip()!r} twice; say it once")
        blocks[block.strip()] = _number(factor, item)
    unet = _number(found["unet"], item)
    text = None if found["text"] is None else _number(found["text"], item)
    for weight in (unet, text if text is not None else unet):
        if not -2 <= weight <= 3:
            raise AdapterError(f"weight of {name!r} is {weight:g}, expected -2 to 3")
    if found["begin"] is None:
        return name, Weights(unet=unet, text=text, blocks=blocks)
    begin, end = _number(found["begin"], item), _number(found["end"], item)
    return name, Weights(unet=unet, text=text, blocks=blocks, begin=begin, end=end)


def _number(text: str, item: str) -> float:
    try:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    except ValueError:
        raise ConfigError(
            f"adapter {item!r} has {text!r} where a number is expected; write {WEIGHT_SYNTAX}, as zib:0.8"
        ) from None


def target(out: str | None, default: str, source: Path | None, *, ending: str = ".safetensors") -> Path:
    """The file to write: `--out`, or a name in the present folder.

    Raises: ConfigError where its folder isn't there, or it is the source itself.
    """
    path = place(out) if out else Path(default)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out: folder {str(path.absolute().parent)!r} isn't there; make it first")
    if source is not None and path.resolve() == source.resolve():
        raise ConfigError(f"--out {str(path)!r} is the adapter itself; choose another name")
    if ending and path.suffix.lower() != ending:
        raise ConfigError(f"--out {str(path)!r} has another ending; expected a name ending in {ending}")
    return path


def adapter_target(args: argparse.Namespace, stem: str, source: Path | None) -> Path:
    """The adapter file or folder to write in the form that `--format` names."""
    from pipelines.formats import FORMATS

    ending = ".safetensors" if FORMATS[args.format].kind == "file" else ""
    return target(args.out, f"{stem}-{args.format}{ending}", source, ending=ending)


def rank_rule(args: argparse.Namespace) -> RankRule | None:
    """The rule of `--rank`, `--energy` and `--error`; None where none is given."""
    if args.rank is None and args.energy is None and args.error is None:
        return None
    from pipelines.lowrank import RankRule

    return RankRule(rank=args.rank, energy=args.energy, error=args.error)


def say(args: argparse.Namespace, text: str, data: Any) -> None:
    """Print for people, or with `--json` for scripts."""
    if args.json:
        print(json.dumps(data, ensure_ascii=False, default=str))
    else:
        print(text)


def workspace_options() -> Parser:
    """`--workspace`."""
    options = Parser(add_help=False)
    options.add_argument(
        "--workspace", default=None, metavar="DIR", help="default: $PIGMENT_WORKSPACE or ~/Pigment"
    )
    return options


def shared_options() -> Parser:
    """`--workspace`, `--base` and how it is loaded; a base that isn't given is None: pocket."""
    options = Parser(add_help=False, parents=[workspace_options()])
    add_base(options)
    return options


def add_json(command: argparse.ArgumentParser) -> None:
    """`--json`."""
    command.add_argument(
        "--json", action="store_true", help="print JSON for scripts (an object; of a folder, a list)"
    )


def add_part(command: argparse.ArgumentParser) -> None:
    """`--part`."""
    command.add_argument(
        "--part",
        action="store_true",
        help="take what fits of a file that doesn't fit whole, and say what's left",
    )


def add_rank(command: argparse.ArgumentParser) -> None:
    """`--rank`, `--energy`, `--error`."""
    command.add_argument("--rank", type=int, default=None, metavar="N", help="this rank, or at most")
    command.add_argument(
        "--energy", type=float, default=None, metavar="SHARE", help="keep this share of ΔW's energy, 0 to 1"
    )
    command.add_argument(
        "--error", type=float, default=None, metavar="E", help="keep ΔW within this relative error, below 1"
    )


def add_writing(command: argparse.ArgumentParser) -> None:
    """`--format`, `--dtype`, `--out`."""
    from pipelines.formats import FORMATS, WRITE_DTYPES

    forms = "; ".join(f"{row.id}: for {row.readers}" for row in FORMATS.values())
    command.add_argument("--format", choices=list(FORMATS), default="kohya", help=f"{forms} (default: kohya)")
    command.add_argument("--dtype", choices=list(WRITE_DTYPES), default="fp16", help="default: fp16")
    command.add_argument("--out", default=None, metavar="FILE", help="default: named after the adapter")
