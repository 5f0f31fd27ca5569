"""`pigment interference`: which of several adapters overwrites which, where, and what balances them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from studio.commands.arguments import WEIGHT_HELP, Parser, add_json, add_part, say, target
from studio.commands.base_options import the_base
from studio.commands.inspecting import weights_of
from studio.commands.uses import read_all, settled, uses_of

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.interference import Interference, Meeting


def interference(args: argparse.Namespace) -> int:
    """Say what adapters do to each other at their weights: sentences first, then the figures."""
    heatmap = None if args.heatmap is None else target(args.heatmap, "", None, ending=".png")
    uses = uses_of(args.adapters, args)
    if len(uses) < 2:
        raise AdapterError("got one adapter to compare; name two or more")
    from pipelines.interference_words import sentences

    measured = args.measure == "effect"
    base = the_base(args) if measured else None
    adapters = read_all(uses, args, base)
    if base is None:
        base = weights_of(args, adapters.values(), "interference by size")
    if base is not None:
        for adapter in adapters.values():
            adapter.check(base)
        uses = settled(uses, base)
    blocks = {use.name: use.weights.blocks for use in uses}
    report = _met(adapters, base, measured).at({use.name: use.weights.pair for use in uses}, blocks)
    found = sentences(report)
    lines = [*(one.words for one in found), ""]
    if measured:
        lines += [*_effects(report), ""]
    lines.append(report.as_text())
    data: dict[str, Any] = {"sentences": [one.as_dict() for one in found], "interference": report.as_dict()}
    if heatmap is not None:
        from pipelines.heatmap import interference_picture

        interference_picture(report).save(heatmap)
        lines.append(str(heatmap))
        data["heatmap"] = str(heatmap)
    say(args, "\n".join(lines), data)
    return 0


def _met(adapters: Mapping[str, Adapter], base: Base | None, measured: bool) -> Meeting:
    """The adapters measured against each other, with their effects where those are asked for."""
    from pipelines.interference import meeting

    met = meeting(adapters, base)
    if base is None or not measured:
        return met
    from pipelines.effects import block_effects
    from pipelines.mixer import Mixer

    with Mixer(base) as mixer:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
        return replace(met, effects={name: dict(block_effects(mixer, name)) for name in adapters})


def _effects(report: Interference) -> list[str]:
    """A table of how much each adapter alone changes the prediction, by block."""
    effects = report.effects or {}
    first = max(len("block"), *(len(block) for block in effects))
    names = [name[:24] for name in report.adapters]
    lines = ["change of the prediction", f"{'block':<{first}}  " + "  ".join(f"{n:>8}" for n in names)]
    for block, found in effects.items():
        cells = "  ".join(
            f"{found[name]:>{max(8, len(n))}.3f}" for name, n in zip(report.adapters, names, strict=True)
        )
        lines.append(f"{block:<{first}}  {cells}")
    return lines


def add_commands(commands: Any, shared: Parser) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "interference", parents=[shared], help="which adapter overwrites which, and what balances them"
    )
    parser.add_argument("adapters", nargs="+", metavar="NAME:WEIGHT", help=WEIGHT_HELP)
    parser.add_argument(
        "--measure", choices=["effect", "size"], default="effect",
        help="by the change of the base's prediction (default), or by ‖ΔW‖ without a base",
    )  # fmt: skip
    parser.add_argument("--heatmap", default=None, metavar="FILE.png", help="the report as a picture")
    add_part(parser)
    add_json(parser)
    parser.set_defaults(run=interference)
