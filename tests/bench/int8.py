"""What rounding layers to 8 bits costs or gives: `python -m tests.bench.int8 [--model sdxl] [--record]`.

Forward and backward (gradients of the inputs alone) of every linear layer that `quantise` reaches, at a
training's shapes with one picture, by every way of multiplying that the device has, against the plain layer;
in turns, on a CUDA card as graphs. Times are summed over the model's layers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import torch
from torch import nn

from pipelines import int8
from pipelines.device import DTYPES, choose_device
from pipelines.int8 import Int8Linear, Way, fits, products
from trainers.bench.measuring import median, timed
from trainers.bench.models import RANDOM, random_base
from trainers.bench.records import short
from trainers.evidence.provenance import machine, versions

RESULT = Path(__file__).parent / "results" / "int8.json"

Shape = tuple[int, int, int]
"""Tokens, inputs, outputs."""


def shapes(family: str, *, small: bool = False) -> Counter[Shape]:
    """The layers that are rounded with their inputs, and how many of each shape a step goes through."""
    base, found = random_base(family, small=small, device="meta"), Counter[Shape]()

    def look(layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        found[inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    for path, layer in base.unet.named_modules():
        text = path.endswith(("attn2.to_k", "attn2.to_v"))
        if ".attentions." in path and isinstance(layer, nn.Linear) and fits(layer) and not text:
            layer.register_forward_hook(look)
    config = base.unet.config
    side = config.sample_size
    more: dict[str, Any] = {}
    if config.addition_embed_type == "text_time":
        ids = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more = {"text_embeds": torch.empty(1, ids), "time_ids": torch.empty(1, 6)}
    given = torch.empty(1, 4, side, side), torch.empty(1), torch.empty(1, 77, config.cross_attention_dim)
    with torch.no_grad():
        base.unet(
            *(one.to("meta", base.dtype) for one in given),
            added_cond_kwargs={name: one.to("meta", base.dtype) for name, one in more.items()},
        )
    return found


def step(layer: nn.Module, x: torch.Tensor, towards: torch.Tensor) -> Callable[[], object]:
    """A call of forward and backward; on a CUDA card the replay of its graph."""

    def once() -> object:
        return torch.autograd.grad(layer(x), x, towards)

    if x.device.type != "cuda":
        return once
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def compare(
    shape: Shape, device: torch.device, dtype: torch.dtype, rounds: int, times: int
) -> dict[str, Any]:
    """Milliseconds of the plain layer and of every way, and ratios (plain over it), round by round."""
    tokens, inputs, outputs = shape
    plain = nn.Linear(inputs, outputs, device=device, dtype=dtype).requires_grad_(False)
    x = torch.randn(1, tokens, inputs, device=device, dtype=dtype, requires_grad=True)
    towards = torch.randn(1, tokens, outputs, device=device, dtype=dtype)
    calls = {"plain": step(plain, x, towards)}
    for way in get_args(Way):
        if way == "floats" or int8._right(way, device):
            with mock.patch.object(int8, "products", lambda device, way=way: way):
                held = Int8Linear(plain)
                calls[way] = step(held, x, towards)
                if device.type != "cuda":
                    calls[way] = _by(way, calls[way])
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(median(timed([call] * times, device)))
    return found


def _by(way: str, call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with mock.patch.object(int8, "products", lambda device: way):
            return call()

    return run


def measure(
    family: str, device: torch.device, dtype: torch.dtype, *, small: bool, rounds: int, times: int
) -> dict[str, Any]:
    """Figures of a model's layers together, and of each shape."""
    counted, rows, whole = shapes(family, small=small), [], dict[str, list[float]]()
    for shape, count in sorted(counted.items()):
        found = compare(shape, device, dtype, rounds, times)
        rows.append(
            {"shape": list(shape), "layers": count} | {f"{n}_ms": median(v) for n, v in found.items()}
        )
        print(rows[-1], flush=True)
        for name, values in found.items():
            before = whole.get(name, [0.0] * rounds)
            whole[name] = [a + count * b for a, b in zip(before, values, strict=True)]
    result: dict[str, Any] = {"layers": sum(counted.values()), "ms": {n: median(v) for n, v in whole.items()}}
    for name in whole.keys() - {"plain"}:
        ratios = [a / b for a, b in zip(whole["plain"], whole[name], strict=True)]
        result[name] = {"ratio": median(ratios), "ratio_spread": [min(ratios), max(ratios)]}
    return result | {"shapes": rows}


def main(argv: list[str] | None = None) -> None:
    """Measure and print; `--record` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=RANDOM, help="one or both; both without it")
    parser.add_argument("--small", action="store_true", help="an eighth as wide and as high")
    parser.add_argument("--device")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args(argv)
    chosen = choose_device(args.device, args.dtype)
    sizes: dict[str, Any] = {"small": args.small, "rounds": args.rounds, "times": args.times}
    where = (
        torch.device("cuda", torch.cuda.current_device()) if chosen.device.type == "cuda" else chosen.device
    )
    command = " ".join(["python -m tests.bench.int8", *(sys.argv[1:] if argv is None else argv)])
    figures = {
        "models": {
            family: measure(family, where, chosen.dtype, **sizes) for family in args.model or RANDOM
        },
        "taken": products(where), "device": chosen.describe(), **sizes, "date": time.strftime("%Y-%m-%d"),
        "machine": machine(), "versions": versions(), "command": command,
    }  # fmt: skip
    print(json.dumps(short(figures), indent=2))
    if args.record:
        RESULT.write_text(json.dumps(short(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
