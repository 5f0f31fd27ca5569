"""The command `pigment`: everything the page does, without a page.

Exit code 0: done. 2: one line on standard error says what was wrong and what to do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError, ConfigError, StudioError

PORT = 7860


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _studio(args: argparse.Namespace) -> int:
    from studio.server import serve

    return serve(host=args.host, port=args.port, workspace=args.workspace, base=_base(args.base))


def _base(ref: str) -> str:
    """A base as one that the whole studio understands: "pocket", or the whole path of a folder."""
    if ref == "pocket":
        return ref
    path = Path(ref).expanduser().resolve()
    if not (path / "model_index.json").is_file():
        found = "a folder without model_index.json" if path.is_dir() else "no folder"
        from pipelines.errors import BaseError

        raise BaseError(f"base {ref!r} is {found}; give a folder in diffusers' layout, or “pocket”")
    return str(path)


def _library(args: argparse.Namespace) -> Any:
    from studio.library import Library
    from studio.workspace import Workspace

    library = Library(Workspace.open(args.workspace, own=False))
    library.add_examples()
    return library


def _adapter_file(ref: str, args: argparse.Namespace) -> Path:
    """The file that `ref` names: a path, or the name of an adapter in the library."""
    path = Path(ref).expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise AdapterError(
            f"no file {ref!r}; give a .safetensors file or the name of an adapter in the library"
        )
    library = _library(args)
    entry = library.find(ref)
    if entry is None:
        from pipelines.errors import nearest

        raise AdapterError(
            f"no adapter {ref!r} in the library{nearest(ref, [one.name for one in library.entries()])}"
        )
    return entry.path


def _generate(args: argparse.Namespace) -> int:
    from studio.mixing import Request, generation_config

    uses = [_weighted(item) for item in args.adapter]
    request = Request(
        prompt=args.prompt, negative_prompt=args.negative, seed=args.seed, num_inference_steps=args.steps,
        guidance_scale=args.guidance, num_images=args.count, sampler=args.sampler, weights={},
    )  # fmt: skip
    config = generation_config(request)
    files = [(_adapter_file(ref, args), weight) for ref, weight in uses]
    out = Path(args.out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {args.out!r} is no PNG; expected a name ending in .png")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: folder {str(out.absolute().parent)!r} isn't there; make it first")

    from pipelines.base import load_base
    from pipelines.formats import read_adapter
    from pipelines.generate import AdapterUse, generate
    from pipelines.mixer import Mixer

    adapters = [(read_adapter(path), weight) for path, weight in files]
    base = load_base(_base(args.base))
    with Mixer(base) as mixer:
        for number, (adapter, _) in enumerate(adapters):
            mixer.add(str(number), adapter)
        mixer.set({str(number): weight for number, (_, weight) in enumerate(adapters)})
        used = tuple(
            AdapterUse(name=adapter.name[:200], sha256=adapter.sha256 or "", weight=weight)
            for adapter, weight in adapters
        )
        pictures = generate(base, config.model_copy(update={"adapters": used}))
    for number, picture in enumerate(pictures):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{number + 1:02d}{out.suffix}")
        picture.save(path)
        print(path)
    return 0


def _weighted(item: str) -> tuple[str, float]:
    """`name:0.8` as ("name", 0.8); a name alone has weight 1."""
    name, colon, weight = item.rpartition(":")
    if not colon or (len(name) == 1 and name.isalpha() and weight[:1] in "/\\"):  # C:\file has no weight
        return item, 1.0
    try:
        value = float(weight)
    except ValueError:
        raise ConfigError(
            f"adapter {item!r} has no number after the colon; write NAME:WEIGHT, such as zib:0.8"
        ) from None
    if not -2 <= value <= 3:
        raise AdapterError(f"weight of {name!r} is {value:g}, expected -2 to 3")
    return name, value


def _export(args: argparse.Namespace) -> int:
    path = _adapter_file(args.adapter, args)
    target = Path(args.out) if args.out else Path(f"{path.stem}-{args.format}.safetensors")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--out: folder {str(target.absolute().parent)!r} isn't there; make it first")
    if target.absolute() == path.absolute():
        raise ConfigError(f"--out {str(target)!r} is the adapter itself; choose another name")

    from pipelines.export import export_adapter
    from pipelines.formats import read_adapter

    adapter = read_adapter(path)
    base = None
    if not args.no_picture:
        from pipelines.base import load_base

        base = load_base(_base(args.base))
    print(export_adapter(adapter, target, args.format, args.dtype, base=base).as_text())
    return 0


def _import(args: argparse.Namespace) -> int:
    from pipelines.formats import inspect_adapter, read_adapter

    path = Path(args.file).expanduser()
    if path.is_file() and path.suffix.lower() == ".safetensors":
        inspect_adapter(path)  # refuses most of what is wrong before torch is loaded
    entry, new = _library(args).add(path, name=args.name, check=read_adapter)
    print(f"{entry.name}: {'imported' if new else 'was in the library already'} ({entry.path})")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    import json

    from pipelines.formats import inspect_adapter

    print(
        json.dumps(inspect_adapter(_adapter_file(args.file, args)), indent=2, ensure_ascii=False, default=str)
    )
    return 0


def _forward(name: str) -> Callable[[Sequence[str]], int]:
    """The entry point that a subcommand with its own options hands its arguments to."""

    def train(argv: Sequence[str]) -> int:
        from trainers.__main__ import main as train_main

        return train_main(argv)

    def demo(argv: Sequence[str]) -> int:
        from studio.demo import main as demo_main

        return int(demo_main(list(argv)))

    return {"train": train, "demo": demo}[name]


FORWARDED = {
    "train": "teach a base from a TOML file",
    "demo": "teach, mix and export on the embedded base, without a page",
}


def _parser() -> argparse.ArgumentParser:
    from pipelines.formats import FORMATS, WRITE_DTYPES
    from pipelines.samplers import SAMPLERS

    parser = _Parser(
        prog="pigment", description="Teach a Stable Diffusion model, mix what it learned, take it away."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--workspace", default=None, metavar="DIR", help="default: $PIGMENT_WORKSPACE or ~/Pigment"
    )
    shared.add_argument(
        "--base", default="pocket", metavar="BASE", help="pocket (embedded) or a diffusers folder"
    )

    studio = commands.add_parser("studio", parents=[shared], help="open the page")
    studio.add_argument("--host", default="127.0.0.1", help="an address of this machine alone")
    studio.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes a free one")
    studio.set_defaults(run=_studio)

    for name, text in FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)

    generate = commands.add_parser("generate", parents=[shared], help="draw pictures")
    generate.add_argument("prompt")
    generate.add_argument("--negative", default="", help="what the picture shouldn't show")
    generate.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME:WEIGHT",
        help="file or library name; repeatable",
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--count", type=int, default=1)
    generate.add_argument("--steps", type=int, default=20)
    generate.add_argument("--guidance", type=float, default=3.0)
    generate.add_argument("--sampler", choices=list(SAMPLERS), default="ddim")
    generate.add_argument("--out", default="picture.png", metavar="FILE.png")
    generate.set_defaults(run=_generate)

    export = commands.add_parser("export", parents=[shared], help="write an adapter for other tools, checked")
    export.add_argument("adapter", help="file, or name in the library")
    export.add_argument("--format", choices=list(FORMATS), default="kohya")
    export.add_argument("--dtype", choices=list(WRITE_DTYPES), default="fp16")
    export.add_argument("--out", default=None, metavar="FILE.safetensors")
    export.add_argument(
        "--no-picture", action="store_true", help="don't compare a picture drawn through diffusers"
    )
    export.set_defaults(run=_export)

    take = commands.add_parser("import", parents=[shared], help="take an adapter file into the library")
    take.add_argument("file")
    take.add_argument("--name", default="", help="default: the title in the file")
    take.set_defaults(run=_import)

    inspect = commands.add_parser("inspect", parents=[shared], help="say what an adapter file is")
    inspect.add_argument("file", help="file, or name in the library")
    inspect.set_defaults(run=_inspect)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in FORWARDED:
            return _forward(arguments[0])(arguments[1:])
        args = _parser().parse_args(arguments)
        return int(args.run(args))
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
