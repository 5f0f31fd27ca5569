"""Which family an adapter file is for: from its names, its shapes and what it says of itself.

Nothing here reads numbers or needs torch. Evidence is weighed, not chained: each clue adds to or
takes from every family's score, so that a file with half of the clues is told as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.adapter import AnyFactors, Factors, LowRank
from pipelines.families import FAMILIES, Family
from pipelines.formats.container import Header
from pipelines.formats.keys import ALPHA, Parsed
from pipelines.formats.metadata import about_of
from pipelines.methods import METHODS, method_of

# What the clues weigh. A hint outweighs habits of spelling, and is outweighed by what only one family has.
_AXES = 4
_OWN_WORD, _WIDTH, _STRUCTURE, _STATED, _TEXT_WIDTH, _HINT, _HABIT, _TRACE = 64, 16, 12, 10, 8, 6, 2, 1


@dataclass(frozen=True)
class Ghost:
    """A tensor known by its shape only; stands in for one where a method is asked for shape or rank."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def size(self, axis: int) -> int:
        """Length of one axis."""
        return self.shape[axis]

    def numel(self) -> int:
        """How many numbers it has."""
        count = 1
        for side in self.shape:
            count *= side
        return count


def ghost_factors(
    header: Header, parts: Mapping[str, str], method: str = "", options: Mapping[str, Any] | None = None
) -> AnyFactors | None:
    """Return the factors of one module without their numbers, or None where no method has such parts.

    method: a key of METHODS where the file states one.
    """
    row = METHODS.get(method) or method_of(parts)
    if row is None or not row.required <= parts.keys():
        return None
    ghosts: dict[str, Any] = {p: Ghost(header.tensors[key].shape) for p, key in parts.items() if p != ALPHA}
    if row.id == LowRank.method:
        return LowRank(down=ghosts["down"], up=ghosts["up"], alpha=1.0)
    return Factors(method=row.id, parts=ghosts, options=options or {})


def shape_of(factor: AnyFactors | None) -> tuple[int, ...] | None:
    """Return the shape of the weight that factors are for, or None where they don't tell or don't fit."""
    try:
        return None if factor is None else factor.weight_shape
    except (IndexError, TypeError, ValueError, ZeroDivisionError, KeyError):
        return None


@dataclass(frozen=True)
class Clues:
    """What a file shows of its family. hint: the family that whoever asks expects, or None."""

    header: Header
    parsed: Parsed
    hint: str | None

    def best(self) -> Family:
        """Return the likeliest family; among equals the first of the table."""
        return max(FAMILIES.values(), key=self.score)

    def score(self, family: Family) -> float:
        """Weigh all evidence for one family."""
        components = {name.split(".", 1)[0] for name in self.parsed.modules}
        components.update(*self.parsed.tokens.values())
        if not components <= set(family.components):
            return -1000.0
        total: float = _STATED * stated_for(family, self.header.metadata)
        total += _OWN_WORD * (about_of(self.header.metadata).get("family") == family.id)
        total += _HINT * (self.hint == family.id)
        total += self._shapes(family) + self._tokens(family)
        if any(name.startswith("unet.add_embedding.") for name in self.parsed.modules):
            total += _STRUCTURE if family.pooled else -_STRUCTURE
        if self._sgm:
            total += _HABIT * (family.unet_spelling == "sgm")
        prefixes = tuple(encoder.kohya_prefix for encoder in family.text_encoders)
        total += _TRACE * any(key.startswith(prefixes) for key in self.header.tensors)
        return total - _TRACE * self._misplaced(family)

    def _shapes(self, family: Family) -> float:
        total = 0.0
        if (width := self._context) is not None and width in _published_widths():
            total += _WIDTH if width in family.context_widths else -_WIDTH
        if (axes := self._projection) is not None:
            # 1×1 convolutions are stored with two axes by some tools: less than what the file states.
            total += _AXES if family.linear_projection == (axes == 2) else -_AXES
        if (width := self._text) is not None and len(family.text_encoders) == 1:
            total += _TEXT_WIDTH * (width in family.context_widths)
        return total

    def _tokens(self, family: Family) -> float:
        """Vectors of a learned token are as wide as their text encoders, all together as the context."""
        for keys in self.parsed.tokens.values():
            widths = [self.header.tensors[key].shape[-1:] for key in keys.values()]
            total = sum(width[0] for width in widths if width)
            return _WIDTH * (len(keys) == len(family.text_encoders) and total in family.context_widths)
        return 0.0

    @cached_property
    def _context(self) -> int | None:
        """Width of the text that cross-attention takes in."""
        for name, parts in self.parsed.modules.items():
            if name.endswith((".attn2.to_k", ".attn2.to_v")):
                width = linear_inputs(self.header, parts)
                if width is not None:
                    return width
        return None

    @cached_property
    def _projection(self) -> int | None:
        """Axes of the weights that lead into attention."""
        for name, parts in self.parsed.modules.items():
            if name.endswith((".proj_in", ".proj_out")):
                shape = shape_of(ghost_factors(self.header, parts))
                if shape is not None:
                    return len(shape)
        return None

    @cached_property
    def _text(self) -> int | None:
        """Width of the first text encoder."""
        for name, parts in self.parsed.modules.items():
            if name.startswith("text_encoder.") and name.endswith((".q_proj", ".k_proj", ".v_proj", ".fc1")):
                width = linear_inputs(self.header, parts)
                if width is not None:
                    return width
        return None

    @cached_property
    def _sgm(self) -> bool:
        return any(key.startswith(_SGM_STARTS) for key in self.header.tensors)

    def _misplaced(self, family: Family) -> bool:
        """Whether any attention lies in a block that has none in the family's published UNet."""
        sides = {"down_blocks": family.blocks.down, "up_blocks": family.blocks.up}
        return any(
            block >= len(sides[side]) or (attention and not sides[side][block])
            for side, block, attention in self._blocks
        )

    @cached_property
    def _blocks(self) -> set[tuple[str, int, bool]]:
        return set(_blocks_of(self.parsed.modules))


_SGM_STARTS = tuple(f"lora_unet_{name}" for name in ("input_blocks_", "middle_block_", "output_blocks_"))

# The part whose second side is a linear layer's inputs, where the method's own shape doesn't say so; two
# stand for the product of their sides (Kronecker).
_INPUTS = (("hada_w1_b",), ("lokr_w1", "lokr_w2"), ("lokr_w1", "lokr_w2_b"), ("lokr_w1_b", "lokr_w2_b"),
           ("lokr_w1_b", "lokr_w2"))  # fmt: skip


def linear_inputs(header: Header, parts: Mapping[str, str]) -> int | None:
    """Return how many inputs the linear layer has that a module's tensors are for; None: they don't say."""
    if (shape := shape_of(ghost_factors(header, parts))) is not None:
        return shape[1] if len(shape) > 1 else None
    for names in _INPUTS:
        shapes = [header.tensors[parts[name]].shape for name in names if name in parts]
        if len(shapes) == len(names) and all(len(shape) == 2 for shape in shapes):
            return math.prod(shape[1] for shape in shapes)
    return None


def _blocks_of(modules: Mapping[str, Any]) -> Iterator[tuple[str, int, bool]]:
    for name in modules:
        pieces: Sequence[str] = name.split(".", 4)
        if len(pieces) > 3 and pieces[1] in ("down_blocks", "up_blocks") and pieces[2].isdecimal():
            yield pieces[1], int(pieces[2]), pieces[3] == "attentions"


def _published_widths() -> set[int]:
    return {width for row in FAMILIES.values() for width in row.context_widths}


def stated_for(family: Family, metadata: Mapping[str, str]) -> bool:
    """Whether `ss_base_model_version` or `modelspec.architecture` name a family."""
    fields = (metadata.get(name, "").lower() for name in ("ss_base_model_version", "modelspec.architecture"))
    return any(field.startswith(family.file_marks) for field in fields)
