"""`pigment mix|merge`: several adapters, one picture, one recipe or one file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, ConfigError
from studio.commands.arguments import (
    WEIGHT_HELP,
    Parser,
    adapter_target,
    add_json,
    add_part,
    add_rank,
    add_writing,
    place,
    rank_rule,
    say,
    target,
    the_library,
)
from studio.commands.base_options import refuse_idle_placing, the_base
from studio.commands.inspecting import weights_of
from studio.commands.uses import Use, as_data, read_all, recipe_of, recorded, scaled, settled, uses_of

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.generate import GenerationConfig
    from pipelines.mixer import Weights
    from pipelines.recipe import Found


def _config(args: argparse.Namespace, prompt: str) -> GenerationConfig:
    from studio.mixing import generation_config

    return generation_config(
        prompt=prompt, negative_prompt=args.negative, seed=args.seed, num_inference_steps=args.steps,
        guidance_scale=args.guidance, num_images=args.count, sampler=args.sampler,
    )  # fmt: skip


def _draw(
    base: Base, uses: Sequence[Use], adapters: Mapping[str, Adapter], config: GenerationConfig, out: Path
) -> list[Path]:
    """Draw a mix's pictures into files, numbered where there are several."""
    from pipelines.generate import generate
    from pipelines.mixer import Mixer

    with Mixer(base) as mixer:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
        mixer.set({use.name: use.weights for use in uses})
        pictures = generate(base, config.model_copy(update={"adapters": recorded(uses, adapters)}))
    written = []
    for number, picture in enumerate(pictures):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{number + 1:02d}{out.suffix}")
        picture.save(path)
        written.append(path)
    return written


def mix(args: argparse.Namespace) -> int:
    """Mix adapters: say what they do to each other, draw, save the recipe."""
    _check_asked(args)
    out = target(args.out, "mix.png", None, ending=".png")
    heatmap = None if args.heatmap is None else target(args.heatmap, "", None, ending=".png")
    saved = None if args.recipe is None else target(args.recipe, "", None, ending=".json")
    levels = _levels(args.grid)
    uses, prompt, recipe = _opened(args)
    if levels and not prompt:
        raise ConfigError("--grid needs a --prompt to draw")
    config = _config(args, prompt) if prompt else None
    if args.out is not None and not prompt:
        raise ConfigError("--out needs a --prompt to draw")
    if config is None:
        refuse_idle_placing(args, "mix without a --prompt")
    base = the_base(args)
    adapters = read_all(uses, args, base)
    for adapter in adapters.values():
        adapter.check(base)
    uses = settled(uses, base)
    if args.balance:
        uses = _balanced(uses, adapters, base, args.balance)
    from pipelines.interference import interference

    blocks = {use.name: use.weights.blocks for use in uses}
    report = interference(adapters, {use.name: use.weights.pair for use in uses}, base, blocks)
    data: dict[str, Any] = {"weights": {use.name: as_data(use.weights) for use in uses}}
    data["interference"] = report.as_dict()
    lines = [
        f"{use.name}: {use.weights.unet:g} on the UNet, {use.weights.pair[1]:g} on the text encoders"
        for use in uses
    ]
    if not all(use.weights.steady for use in uses):
        lines.append("as it is where every adapter is whole; some come in with the steps")
    lines.append(report.as_text())
    if recipe is not None and (note := recipe.base_note(base.sha256)):
        lines.insert(0, note)
        data["note"] = note
    if config is not None:
        if levels:
            written = [_grid(base, uses, adapters, config, levels, out)]
        else:
            written = _draw(base, uses, adapters, config, out)
        lines += [str(path) for path in written]
        data["pictures"] = [str(path) for path in written]
    if heatmap is not None:
        from pipelines.heatmap import interference_picture

        interference_picture(report).save(heatmap)
        lines.append(str(heatmap))
        data["heatmap"] = str(heatmap)
    if saved is not None:
        recipe_of(uses, adapters, base, prompt).save(saved)
        lines.append(str(saved))
        data["recipe"] = str(saved)
    say(args, "\n".join(lines), data)
    return 0


def _check_asked(args: argparse.Namespace) -> None:
    """Refuse options of `mix` that would have no effect."""
    recipe = len(args.adapters) == 1 and args.adapters[0].lower().endswith(".json")
    if args.grid and args.count != 1:
        raise ConfigError("--grid draws one picture per mix; leave --count out")
    if args.folder and not recipe:
        raise ConfigError("--folder is where a recipe's adapters are looked for; give a recipe.json")
    if args.folder and not place(args.folder).is_dir():
        raise ConfigError(f"--folder {args.folder!r} is no folder")


def _opened(args: argparse.Namespace) -> tuple[list[Use], str, Found | None]:
    """The adapters and the prompt: of the command line, or of a recipe given in their place."""
    first = Path(args.adapters[0])
    if len(args.adapters) > 1 or first.suffix.lower() != ".json":
        return uses_of(args.adapters, args), args.prompt, None
    from pipelines.recipe import find_adapters, read_recipe

    recipe = read_recipe(first)
    folder = [] if args.folder is None else sorted(Path(args.folder).rglob("*.safetensors"))
    entries = [entry.path for entry in the_library(args).entries()]
    found = find_adapters(recipe, [*entries, *folder])
    if problem := found.problem():
        raise AdapterError(problem)
    uses: list[Use] = []
    for number, one in enumerate(recipe.adapters):
        taken, name = {use.name for use in uses}, one.name
        while name in taken:
            name = f"{one.name} {number + 1}"
            number += 1
        uses.append(Use(name, found.files[one.sha256], one.weights()))
    return uses, args.prompt or recipe.prompt, found


def _balanced(uses: Sequence[Use], adapters: Mapping[str, Adapter], base: Base, measure: str) -> list[Use]:
    """Give each adapter the weight that makes their effects equal; the text side keeps its proportion."""
    from pipelines.interference import balanced_weights

    proposed = balanced_weights(adapters, base, measure=measure)
    return [replace(use, weights=scaled(use.weights, proposed[use.name])) for use in uses]


def _levels(text: str | None) -> list[float]:
    """The weights of `--grid`."""
    if text is None:
        return []
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--grid {text!r} isn't understood; write weights like 0,0.5,1") from None
    if not all(-2 <= level <= 3 for level in levels) or len(levels) > 12:
        raise ConfigError(f"--grid {text!r}: give at most 12 weights from -2 to 3")
    return levels


def _grid(
    base: Base, uses: Sequence[Use], adapters: Mapping[str, Adapter], config: GenerationConfig,
    levels: Sequence[float], out: Path,
) -> Path:  # fmt: skip
    """Draw a mix at several weights: two adapters as rows and columns, any other number all together."""
    from pipelines.generate import generate as drawn
    from pipelines.grids import labelled_grid
    from pipelines.mixer import Mixer

    def at(use: Use, level: float) -> Weights:
        return scaled(use.weights, level)

    with Mixer(base) as mixer:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
        single = config.model_copy(update={"num_images": 1})
        rows = []
        for down in levels if len(uses) == 2 else [None]:
            row = []
            for across in levels:
                asked = [across] * len(uses) if down is None else [down, across]
                mixer.set({use.name: at(use, level) for use, level in zip(uses, asked, strict=True)})
                row.append(drawn(base, single)[0].image)
            rows.append(row)
    columns = [f"{uses[-1].name if len(uses) == 2 else 'all'} {level:g}" for level in levels]
    names = [f"{uses[0].name} {level:g}" for level in levels] if len(uses) == 2 else [""]
    labelled_grid(rows, names, columns).save(out)
    return out


def merge(args: argparse.Namespace) -> int:
    """Merge several adapters into one file, by ΔW."""
    uses = uses_of(args.adapters, args)
    out = adapter_target(args, "merged", None)
    for use in uses:
        if use.weights.blocks or not use.weights.steady:
            raise ConfigError(
                f"weights of {use.name!r}: a merged file holds no blocks and no steps; give NAME:WEIGHT/TEXT"
            )
        if use.path.resolve() == out.resolve():
            raise ConfigError(f"--out {str(out)!r} is one of the adapters; choose another name")
    from pipelines.export import export_adapter
    from pipelines.formats import read_adapter
    from pipelines.merging import merge_adapters

    adapters = [read_adapter(use.path) for use in uses]
    base = weights_of(args, adapters, "merge")
    merged, report = merge_adapters(
        adapters,
        [use.weights.pair for use in uses],
        args.method,
        rank=rank_rule(args),
        density=args.density,
        majority_sign=args.majority_sign,
        seed=args.seed,
        base=base,
        name=args.name or None,
        allow_left_out=args.allow_left_out,
    )
    written = export_adapter(merged, out, args.format, args.dtype)
    data = {"merge": report.as_dict(), "export": written.as_dict()}
    say(args, f"{report.as_text()}\n{written.as_text()}", data)
    return 0


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    from pipelines.samplers import SAMPLERS

    parser.add_argument("--negative", default="", help="what the picture shouldn't show")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler", choices=list(SAMPLERS), default="ddim")


def add_commands(commands: Any, shared: Parser) -> None:
    """Add this module's commands to the parser."""
    from pipelines.merging import MERGES

    parser = commands.add_parser(
        "mix", parents=[shared], help="mix adapters: what they do to each other, pictures, a recipe"
    )
    parser.add_argument(
        "adapters", nargs="+", metavar="NAME:WEIGHT", help=f"{WEIGHT_HELP}; or one recipe.json"
    )
    parser.add_argument("--balance", choices=["norm", "effect"], default=None,
                        help="set the weights so that ‖ΔW‖, or the measured effect, is equal")  # fmt: skip
    parser.add_argument("--heatmap", default=None, metavar="FILE.png", help="the report as a picture")
    parser.add_argument("--recipe", default=None, metavar="FILE.json", help="save the mix")
    parser.add_argument(
        "--folder", default=None, metavar="DIR", help="where a recipe's adapters are looked for too"
    )
    parser.add_argument("--prompt", default="", help="draw it; a recipe's own if left out")
    parser.add_argument("--grid", default=None, metavar="0,0.5,1", help="draw at each of these weights")
    _add_drawing(parser)
    parser.add_argument("--out", default=None, metavar="FILE.png", help="default: mix.png")
    add_part(parser)
    add_json(parser)
    parser.set_defaults(run=mix)

    parser = commands.add_parser("merge", parents=[shared], help="merge several adapters into one file")
    parser.add_argument(
        "adapters", nargs="+", metavar="NAME:WEIGHT", help="NAME[:WEIGHT[/TEXT]]: file or name"
    )
    parser.add_argument("--method", choices=list(MERGES), default="cat",
                        help="; ".join(f"{row.id}: {row.label}" for row in MERGES.values()))  # fmt: skip
    parser.add_argument("--density", type=float, default=None, metavar="SHARE", help="of the entries kept")
    parser.add_argument("--majority-sign", default=None, metavar="HOW", help="total or frequency (ties)")
    parser.add_argument("--seed", type=int, default=None, help="of what is dropped by chance (dare)")
    parser.add_argument("--name", default="", help="of the merged adapter")
    parser.add_argument("--allow-left-out", action="store_true",
                        help="leave out what plain LoRA can't hold (biases, norms), and say so")  # fmt: skip
    add_rank(parser)
    add_writing(parser)
    add_json(parser)
    parser.set_defaults(run=merge)
