"""Blocks that occur many times in a network, each kind computed once and stood in for afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from trainers.counting.ledger import Ledger, Work
from trainers.counting.twins import AsOn

Answer = tuple[tuple[int, ...], torch.dtype, bool]
"""An answer's shape, dtype, and whether gradients go through it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one block takes and gives.

    forward, backward: work. passing_forward, passing_backward: bytes that are alive at most in each beyond
    what was before (in the backward pass: what was kept and the answers' gradients). kept: bytes that the
    backward pass needs beside inputs. inputs: numbers of the inputs that it needs. saved: bytes that
    recomputing the block saves: what it keeps, but for the inputs that would be kept then.
    """

    forward: Work
    backward: Work
    passing_forward: int
    passing_backward: int
    kept: int
    inputs: tuple[int, ...]
    saved: int
    answers: tuple[Answer, ...]
    structure: Any


def repeating(networks: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the blocks that networks are made of: residual, transformer, and text encoders' layers."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    kinds = (BasicTransformerBlock, ResnetBlock2D, CLIPEncoderLayer)
    return [one for root in networks for one in root.modules() if isinstance(one, kinds)]


class Repeats:
    """Stands in for blocks under a ledger: each kind runs once, alone, and then counts as that.

    Two blocks are of a kind where their modules, parameters, inputs and the places where they are recomputed
    are alike. Only for tensors without memory: the answers have shapes and nothing else. found: by a block's
    `id`, what was found of it when it ran last. mode: what the step runs in, if in any.
    """

    def __init__(self, ledger: Ledger, blocks: Sequence[nn.Module]) -> None:
        self.ledger, self.blocks = ledger, blocks
        self.mode: AsOn | None = None
        self.found: dict[int, Block] = {}
        self._known: dict[Any, Block] = {}
        self._described: dict[int, tuple[Any, list[nn.Module]]] = {}

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Let stand-ins answer for the blocks, as these are now, for a while."""
        before = [(block, block.__dict__.get("forward")) for block in self.blocks]
        kinds = {id(block): self._kind(block) for block in self.blocks}
        for block in self.blocks:
            block.__dict__["forward"] = self._answering(block, block.forward, kinds[id(block)])
        try:
            yield
        finally:
            for block, forward in before:
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward

    def _kind(self, block: nn.Module) -> Any:
        if id(block) not in self._described:
            modules = list(block.modules())
            said = (
                tuple((name, type(m), m.training) for name, m in block.named_modules()),
                tuple((n, p.shape, p.dtype, p.requires_grad) for n, p in block.named_parameters()),
            )
            self._described[id(block)] = hash(said), modules
        described, modules = self._described[id(block)]
        return described, tuple(at for at, module in enumerate(modules) if "forward" in module.__dict__)

    def _answering(self, block: nn.Module, forward: Callable[..., Any], kind: Any) -> Callable[..., Any]:
        learns = any(parameter.requires_grad for parameter in block.parameters())

        def answer(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            said = tuple(
                (leaf.shape, leaf.dtype, leaf.requires_grad) if isinstance(leaf, torch.Tensor) else repr(leaf)
                for leaf in leaves
            )
            key = (kind, said, str(structure), torch.is_grad_enabled())
            if key not in self._known:
                self._known[key] = self._measured(forward, leaves, structure)
            known = self.found[id(block)] = self._known[key]
            anchor = torch.empty(0, device="meta", requires_grad=learns)
            found = _StandIn.apply(self.ledger, known, anchor, *tensors)
            return tree_unflatten(list(found), known.structure)

        return answer

    def _measured(self, forward: Callable[..., Any], leaves: list[Any], structure: Any) -> Block:
        """Run a block alone, on inputs like those given."""
        ledger = self.ledger
        work, peak, start = ledger.work, ledger.peak, ledger.live
        ends = [
            torch.empty_like(leaf, requires_grad=leaf.requires_grad)
            for leaf in leaves
            if isinstance(leaf, torch.Tensor)
        ]
        taken = iter([end.clone() for end in ends])  # not leaves: those are kept by their gradients
        inputs = [next(taken) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        before, begun = ledger.work, ledger.forget_peak()
        args, kwargs = tree_unflatten(inputs, structure)
        out = forward(*args, **kwargs)
        del args, kwargs
        through = ledger.work - before
        passing = ledger.peak - begun
        answers, shape = tree_flatten(out)
        said = tuple((tuple(one.shape), one.dtype, one.requires_grad) for one in answers)
        edges = [torch.autograd.graph.get_gradient_edge(one) for one in answers if one.requires_grad]
        del out, answers
        needed, at = [], 0
        kept = ledger.live - start - sum(end.nbytes for end in ends)
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, torch.Tensor):
                continue
            alive = ledger.live
            inputs[place] = None
            kept -= leaf.nbytes
            if ledger.live == alive:
                needed.append(at)
            at += 1
        before, towards = ledger.work, [torch.empty(s, dtype=d, device="meta") for s, d, g in said if g]
        begun = ledger.forget_peak()
        with nullcontext() if self.mode is None else self.mode.wide():
            if edges:
                torch.autograd.backward(edges, towards)
        more = sum(end.nbytes for at, end in enumerate(ends) if at not in needed)
        block = Block(
            forward=through, backward=ledger.work - before, passing_forward=passing,
            passing_backward=ledger.peak - begun, kept=max(0, kept), inputs=tuple(needed),
            saved=max(0, kept) - more, answers=said, structure=shape,
        )  # fmt: skip
        ledger.work, ledger.peak = work, peak
        return block


class _StandIn(torch.autograd.Function):
    """A block's answers, with what it takes and gives under the ledger. Inputs: it, the block, …, tensors."""

    @staticmethod
    def forward(ctx: Any, ledger: Ledger, block: Block, anchor: Any, *tensors: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ledger.add(block.forward)
        ledger.passing(block.passing_forward)
        found = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype, _ in block.answers)
        apart = [one for one, said in zip(found, block.answers, strict=True) if not said[-1]]
        ctx.mark_non_differentiable(*apart)
        ctx.ledger, ctx.block = ledger, block
        ctx.shapes = [(one.shape, one.dtype) for one in tensors]
        ctx.kept = [torch.empty(block.kept, dtype=torch.uint8, device="meta")]
        ctx.kept += [tensors[at].detach() for at in block.inputs]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        ctx.ledger.add(ctx.block.backward)
        ctx.ledger.passing(ctx.block.passing_backward)
        ctx.kept.clear()
        needed = ctx.needs_input_grad[3:]
        found = (
            torch.empty(shape, dtype=dtype, device="meta") if need else None
            for need, (shape, dtype) in zip(needed, ctx.shapes, strict=True)
        )
        return None, None, None, *found
