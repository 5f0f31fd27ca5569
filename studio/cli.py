"""The command `pigment`: everything the page does, without a page.

Exit code 0: done. 2: one line on standard error says what was wrong and what to do.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from pipelines.errors import ConfigError, StudioError
from studio.commands import (
    adapters,
    bases,
    bundles,
    comparing,
    datasets,
    gallery,
    interference,
    jobs,
    judging,
    library,
    mixes,
    pictures,
)
from studio.commands.arguments import Parser, shared_options
from studio.commands.base_options import FetchLine, base_options, chosen_base, find_base

PORT = 7860


def _studio(args: argparse.Namespace) -> int:
    from studio.server import Doors, serve

    doors = Doors(
        host=args.host, port=args.port, auth=args.auth, root_path=args.root_path,
        allow_hosts=tuple(args.allow_host),
    )  # fmt: skip
    base, options = chosen_base(args, args.base) if args.base else ("", base_options(args))
    if base not in ("", "pocket"):
        options.open(base, on_progress=FetchLine())  # refused or fetched now, not behind the page
    return serve(doors, workspace=args.workspace, base=base, options=options)


def _train(argv: Sequence[str]) -> int:
    from studio.bases import hub_id, local_ref
    from trainers.__main__ import main as train_main

    def named(base: str) -> dict[str, str]:
        if local_ref(base) is not None or hub_id(base) is not None:
            return {}
        path, kept = find_base(base)
        return {"base": path, **kept}

    return train_main(argv, named=named)


def _demo(argv: Sequence[str]) -> int:
    from studio.demo import main as demo_main

    return int(demo_main(list(argv)))


def _bench(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in BENCHES:
        asked = f"unknown measurement {argv[0]!r}" if argv else "nothing to measure was named"
        raise ConfigError(f"{asked}; choose one of {', '.join(BENCHES)}: pigment bench mix --help")
    measure = importlib.import_module(BENCHES[argv[0]]).main
    return int(measure(list(argv[1:])))


BENCHES = {
    "mix": "trainers.bench.mix",
    "generate": "trainers.bench.generate",
    "methods": "trainers.bench.methods",
    "train": "trainers.bench.train",
    "evidence": "trainers.bench.evidence",
    "overhead": "trainers.bench.overhead",
    "faults": "trainers.bench.faults",
    "studio": "studio.bench.studio",
}
"""Measurements by name: the module whose `main` takes the rest of the command line."""


FORWARDED: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": ("teach a base from a TOML file", _train),
    "demo": ("teach, mix and export on the embedded base, without a page", _demo),
    "bench": ("measure, side by side with other tools: pigment bench mix", _bench),
}
"""Commands with parsers of their own."""


def _version() -> str:
    try:
        return version("pigment-studio")
    except PackageNotFoundError:  # the folder as it is, not installed
        return "of a folder"


@functools.cache  # some hundred options, and nothing in it changes
def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pigment", description="Teach a Stable Diffusion model, mix what it learned, take it away."
    )
    parser.add_argument("--version", action="version", version=f"Pigment {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = shared_options()
    studio = commands.add_parser("studio", parents=[shared], help="open the page")
    studio.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1, this machine alone; others need --auth"
    )
    studio.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes a free one")
    studio.add_argument(
        "--auth", default="", metavar="USER:PASSWORD|FILE",
        help="ask for a password; a file holds a line user:password for each account: the first has the "
        "workspace, each of the others a room of its own in it",
    )  # fmt: skip
    studio.add_argument(
        "--root-path", default="", metavar="PATH",
        help="below which path, or at which whole address, a proxy shows the page",
    )  # fmt: skip
    studio.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name that a proxy calls the studio; may be given several times",
    )  # fmt: skip
    studio.set_defaults(run=_studio)
    for name, (text, _) in FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)
    pictures.add_commands(commands, shared)
    mixes.add_commands(commands, shared)
    interference.add_commands(commands, shared)
    adapters.add_commands(commands, shared)
    judging.add_commands(commands, shared)
    library.add_commands(commands)
    bases.add_commands(commands)
    jobs.add_commands(commands)
    datasets.add_commands(commands)
    gallery.add_commands(commands)
    comparing.add_commands(commands)
    bundles.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in FORWARDED:
            return FORWARDED[arguments[0]][1](arguments[1:])
        args = _parser().parse_args(arguments)
        return int(args.run(args))
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `pigment … | head`: what reads has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: the system refused: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
