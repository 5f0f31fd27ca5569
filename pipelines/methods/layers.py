"""Our own layers, one per method that PEFT lacks: what is trained, and what it does in the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.errors import ConfigError
from pipelines.methods.bottleneck import bottleneck
from pipelines.methods.delta_lora import RATIO, START
from pipelines.methods.mora import mora, side_for
from pipelines.methods.own_layer import OwnLayer, own
from pipelines.methods.prefix import attend
from pipelines.methods.qalora import group_for
from pipelines.methods.tuning import Size


def _sides(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, also a quantised one."""
    found: Any = layer
    return int(found.out_features), int(found.in_features)


def _down(rank: int, inner: int) -> torch.Tensor:
    """What LoRA's `down` starts with, (r, in), see `lora_config`."""
    return torch.randn(rank, inner) / rank


class MoRALayer(OwnLayer):
    """See `pipelines.methods.mora`. The square starts at zero."""

    def __init__(self, base_layer: nn.Module, size: Size) -> None:
        super().__init__(base_layer)
        self._out, self._inner = _sides(base_layer)
        side = side_for(size.rank, self._inner, self._out)
        self.mora_m = own(base_layer, torch.zeros(side, side))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out)."""
        y: torch.Tensor = self.base_layer(x)
        return y + mora(x.float(), self.mora_m, self._out).to(y.dtype)

    def options(self) -> dict[str, Any]:
        """The layer's sides, by which a file tells what it belongs to."""
        return {"in_features": self._inner, "out_features": self._out}


class QALoRALayer(OwnLayer):
    """LoRA of the input's sums over groups of g; kept as LoRA whose `down` repeats each column g times.

    Source: Xu et al. 2023, https://arxiv.org/abs/2309.14717, section 3.3: y = W x + s · B A · sum_g(x).
    """

    def __init__(self, base_layer: nn.Module, size: Size) -> None:
        super().__init__(base_layer)
        out, inner = _sides(base_layer)
        self.group, self.alpha = group_for(inner), size.alpha
        self.down = own(base_layer, _down(size.rank, inner // self.group))
        self.up = own(base_layer, torch.zeros(out, size.rank))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out)."""
        y: torch.Tensor = self.base_layer(x)
        pooled = x.float().unflatten(-1, (-1, self.group)).sum(dim=-1)  # (…, in / g)
        narrow = functional.linear(pooled, self.down) * (self.alpha / len(self.down))
        return y + functional.linear(narrow, self.up).to(y.dtype)

    def parts(self) -> dict[str, torch.Tensor]:
        """As plain LoRA of the same rank: ΔW = s · B · repeat(A)."""
        found = super().parts()
        return {**found, "down": found["down"].repeat_interleave(self.group, dim=1)}


class DeltaLoRALayer(OwnLayer):
    """LoRA with W_t = W₀ + λ · s · (B_t A_t − B_K A_K) in W₀'s place from step K on.

    The paper adds λ · s · (B_t A_t − B_t₋₁ A_t₋₁) to the weight after each step; the sum telescopes to this.
    W_t takes no gradient, and isn't formed: its low-rank change goes by the factors, so the base's weight
    is never touched and may be quantised. Kept as LoRA of rank 2r, exactly: up (1 + λ) B_t and −λ B_K,
    down A_t and A_K.

    Source: Zi et al. 2023, https://arxiv.org/abs/2309.02411, equations 4 and 5 and algorithm 1; K is a
    share of the steps here (START), where the paper has a number.
    """

    def __init__(self, base_layer: nn.Module, size: Size) -> None:
        super().__init__(base_layer)
        out, inner = _sides(base_layer)
        self._scale = size.alpha / size.rank
        self.down = own(base_layer, _down(size.rank, inner))
        self.up = own(base_layer, torch.zeros(out, size.rank))
        self.start_down: torch.Tensor
        self.start_up: torch.Tensor
        self.register_buffer("start_down", torch.zeros_like(self.down.detach()), persistent=False)
        self.register_buffer("start_up", torch.zeros_like(self.up.detach()), persistent=False)
        self.started = False

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out)."""
        y: torch.Tensor = self.base_layer(x)
        x = x.float()
        change = functional.linear(functional.linear(x, self.down), self.up)
        if self.started:
            now = functional.linear(functional.linear(x, self.down.detach()), self.up.detach())
            then = functional.linear(functional.linear(x, self.start_down), self.start_up)
            change = change + RATIO * (now - then)
        return y + (self._scale * change).to(y.dtype)

    def after_step(self, step: int, total: int) -> None:
        """Keep the factors of step K."""
        if not self.started and step >= max(1, round(START * total)):
            self.start_down = self.down.detach().clone()
            self.start_up = self.up.detach().clone()
            self.started = True

    @property
    def alpha(self) -> float:  # type: ignore[override]
        """Of the rank that is kept."""
        return self._scale * len(self.down) * (2 if self.started else 1)

    def parts(self) -> dict[str, torch.Tensor]:
        """As plain LoRA, of rank 2r once the weight moves."""
        found = super().parts()
        if not self.started:
            return found
        return {
            "down": torch.cat([found["down"], self.start_down]),
            "up": torch.cat([(1 + RATIO) * found["up"], -RATIO * self.start_up], dim=1),
        }

    def extra(self) -> dict[str, torch.Tensor]:
        """The factors of step K, and whether it has come."""
        return {
            "start_down": self.start_down.clone(),
            "start_up": self.start_up.clone(),
            "started": torch.tensor([float(self.started)]),
        }

    def load_extra(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what `extra` returned back."""
        self.start_down.copy_(tensors["start_down"])
        self.start_up.copy_(tensors["start_up"])
        self.started = bool(tensors["started"].item())


class BiasLayer(OwnLayer):
    """See `pipelines.methods.bitfit`: b + Δb, Δb from zero; the base's own bias is left alone.

    Raises: ConfigError for a layer without a bias.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        bias = base_layer.bias
        if not isinstance(bias, torch.Tensor):
            raise ConfigError("a layer without a bias can't be tuned by BitFit; choose other target layers")
        self.diff_b = own(base_layer, torch.zeros(bias.shape))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out), or (B, in, H, W) → (B, out, h, w)."""
        y: torch.Tensor = self.base_layer(x)
        change = self.diff_b.reshape(-1, 1, 1) if isinstance(self.base_layer, nn.Conv2d) else self.diff_b
        return y + change.to(y.dtype)


class FullLayer(OwnLayer):
    """W₀ + ΔW and b₀ + Δb, every number of ΔW and Δb learned from zero, in fp32; summed in fp32.

    Weight decay draws ΔW to zero, and so the weights to the base's. Raises: ConfigError for a quantised
    layer, whose weight can't be summed.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        weight, bias = base_layer.weight, base_layer.bias
        plain = isinstance(base_layer, nn.Linear | nn.Conv2d) and type(weight.data) is torch.Tensor
        if not (plain and isinstance(weight, torch.Tensor) and weight.is_floating_point()):
            raise ConfigError(
                "full fine-tuning can't sit on a quantised layer; load the base unquantised or choose LoRA"
            )
        self.diff = own(base_layer, torch.zeros(weight.shape))
        if isinstance(bias, torch.Tensor):
            self.diff_b = own(base_layer, torch.zeros(bias.shape))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out), or (B, in, H, W) → (B, out, h, w)."""
        layer: Any = self.base_layer
        weight = (layer.weight.float() + self.diff).to(layer.weight.dtype)
        bias = None if layer.bias is None else (layer.bias.float() + self.diff_b).to(layer.bias.dtype)
        if isinstance(layer, nn.Conv2d):
            return layer._conv_forward(x, weight, bias)
        return functional.linear(x, weight, bias)


class BottleneckLayer(OwnLayer):
    """See `pipelines.methods.bottleneck`. Up and the biases start at zero."""

    def __init__(self, base_layer: nn.Module, size: Size) -> None:
        super().__init__(base_layer)
        width, _ = _sides(base_layer)
        self.bottleneck_down = own(base_layer, torch.randn(size.rank, width) / width**0.5)
        self.bottleneck_down_b = own(base_layer, torch.zeros(size.rank))
        self.bottleneck_up = own(base_layer, torch.zeros(width, size.rank))
        self.bottleneck_up_b = own(base_layer, torch.zeros(width))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """x: (…, in) → (…, out)."""
        y: torch.Tensor = self.base_layer(x)
        return y + bottleneck(y, self.trained()).to(y.dtype)


class PrefixLayer(OwnLayer):
    """See `pipelines.methods.prefix`: in the place of a whole self-attention. Gates start at zero."""

    def __init__(self, base_layer: nn.Module, size: Size) -> None:
        super().__init__(base_layer)
        attention: Any = base_layer
        width = attention.num_heads * attention.head_dim
        self.prefix_k = own(base_layer, torch.randn(size.rank, width) * attention.head_dim**-0.5)
        self.prefix_v = own(base_layer, torch.randn(size.rank, width) * attention.head_dim**-0.5)
        self.prefix_gate = own(base_layer, torch.zeros(attention.num_heads))

    def changed(self, *inputs: Any, **named: Any) -> Any:
        """What the attention returns: (B, L, D), and its weights over the text or None."""
        handles = attend(self.base_layer, lambda: [(1.0, self.trained())])
        try:
            return self.base_layer(*inputs, **named)
        finally:
            for handle in handles:
                handle.remove()
