"""Starts other than zero: PiSSA and OLoRA, which take their share out of the base, and EVA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pipelines.adapter import LowRank
from pipelines.errors import ConfigError
from trainers.tuning.layers import Tuned
from trainers.tuning.targets import Seat

REWRITING = ("pissa", "olora")
"""Starts that take s·B₀A₀ out of the base's weight, so that the whole stays what it was."""


def check_starts(seats: Sequence[Seat]) -> None:
    """Refuse starts where they can't be. Raises: ConfigError."""
    for seat in seats:
        init = seat.size.init
        if init == "default":
            continue
        if not isinstance(seat.module, nn.Linear):
            raise ConfigError(
                f"adapter.initialisation: {init} is for linear layers, {seat.name} is a convolution; choose "
                "unet_targets 'attention', or initialisation 'default'"
            )
        weight = seat.module.weight
        if init in REWRITING and not (type(weight.data) is torch.Tensor and weight.is_floating_point()):
            raise ConfigError(
                f"adapter.initialisation: {init} rewrites the base, {seat.name} is quantised; choose "
                "initialisation 'default', or load the base whole"
            )


class Start:
    """What a layer began with, and the base's weight with and without it.

    down, up: B₀ and A₀ of the beginning. whole: the base's own weight, never written to.
    """

    def __init__(self, tuned: Tuned, whole: torch.Tensor) -> None:
        self.tuned, self.whole = tuned, whole
        self.down = tuned.parts["down"].detach().clone()
        self.up = tuned.parts["up"].detach().clone()
        self.rewrite()

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.tuned.scale

    def rewrite(self) -> None:
        """Let the base hold W₀ − s·B₀A₀.

        Source: Meng et al. 2024 (PiSSA), https://arxiv.org/abs/2404.02948, equation 4; Büyükakyüz 2024
        (OLoRA), https://arxiv.org/abs/2406.01775, section 3.
        """
        share = self.scale * (self.up @ self.down)
        self.rest = (self.whole.float() - share).to(self.whole.dtype)
        self.weight.data = self.rest

    @property
    def weight(self) -> nn.Parameter:
        """The base's parameter."""
        return self.tuned.seat.module.weight  # type: ignore[return-value]

    def show_whole(self, whole: bool) -> None:
        """Let the base hold its own weight again, or what is left of it."""
        self.weight.data = self.whole if whole else self.rest

    def factors(self, now: LowRank) -> LowRank:
        """Return s·(BA − B₀A₀) as plain LoRA of twice the rank: s·((B − B₀)A + B₀(A − A₀)).

        So a file of 16 bits rounds what was learned. Of BA − B₀A₀ it would round the base's share, which is
        much larger.
        """
        down, up = self.down.cpu(), self.up.cpu()
        return LowRank(
            down=torch.cat([now.down, now.down - down]),
            up=torch.cat([now.up - up, up], dim=1),
            alpha=2 * now.alpha,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the beginning, which a resume must not find again a little differently."""
        return {"start.down": self.down, "start.up": self.up}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what `state` returned back."""
        self.down.copy_(tensors["start.down"])
        self.up.copy_(tensors["start.up"])
        self.rewrite()


def start_from_activations(tuned: Sequence[Tuned], forwards: Sequence[Callable[[], object]]) -> None:
    """Let every `down` span the directions that the layer's inputs vary most in.

    forwards: each runs a batch through the base, whose text encoders included.
    Source: Paischer et al. 2024 (EVA), https://arxiv.org/abs/2410.07170, section 3, every module with its
    rank (ρ = 1). Not PEFT's `get_eva_state_dict`, which goes on for ever where a batch has fewer rows than
    the rank and approximates step by step what the covariance gives at once.
    Raises: ConfigError where there is nothing to look at.
    """
    if not forwards:
        raise ConfigError(
            "adapter.initialisation: eva looks at batches of the pictures, got none; give pictures"
        )
    moments: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
            seen = [torch.tensor(float(len(rows))), rows.sum(dim=0), rows.T @ rows]
            before = moments.get(name)
            moments[name] = seen if before is None else [a + b for a, b in zip(before, seen, strict=True)]

        return look

    handles = [one.layer.register_forward_pre_hook(watch(one.seat.name)) for one in tuned]
    try:
        with torch.no_grad():
            for forward in forwards:
                forward()
    finally:
        for handle in handles:
            handle.remove()
    for one in tuned:
        if one.seat.name not in moments:  # a layer that nothing runs through learns nothing either
            continue
        count, total, square = moments[one.seat.name]
        covariance = square / count - torch.outer(total, total) / count**2
        directions = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)  # the widest first
        down = one.parts["down"]
        rank = min(down.shape[0], directions.shape[0])
        with torch.no_grad():
            down[:rank] = directions[:rank].to(down)
