"""AdaLoRA's giving out of ranks: importances in training, and the penalty that keeps factors orthogonal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainers.tuning.layers import NAME, Tuned

_PEFT_NAMES = {"down": "lora_A", "up": "lora_B", "singular": "lora_E"}


class Allocation:
    """The ranks of one component, by PEFT's own allocator.

    Source: Zhang et al. 2023, https://arxiv.org/abs/2303.10512, sections 3.1 (orthogonality, equation 4)
    and 3.2 (importances, equations 8 to 10; budget, equation 12).
    """

    def __init__(self, tuned: Sequence[Tuned]) -> None:
        from peft import AdaLoraConfig
        from peft.tuners.adalora.layer import RankAllocator

        self._layers = {one.seat.name: one for one in tuned}
        stated = tuned[0].stated
        self._weight = float(stated["orth_reg_weight"])
        self._config: Any = AdaLoraConfig(
            init_r=stated["init_r"], target_r=stated["target_r"], total_step=stated["total_step"]
        )
        self._allocator: Any = RankAllocator(self, self._config, NAME)
        self._masks: dict[str, Any] | None = None
        self._settled = False

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield parameters as PEFT names them: what its allocator asks a model for."""
        for name, one in self._layers.items():
            for part, parameter in one.trained().items():
                yield _peft_name(name, part), parameter

    def penalty(self) -> torch.Tensor:
        """Return how far the factors are from orthogonal, times the configuration's weight."""
        norms = []
        for one in self._layers.values():
            parts = one.trained()
            for product in (parts["up"].T @ parts["up"], parts["down"] @ parts["down"].T):
                norms.append(torch.norm(product - torch.eye(product.shape[0], device=product.device)))
        return self._weight * torch.stack(norms).mean()

    def after_step(self, step: int, total: int) -> None:
        """Update importances from the gradients, which are still there, and prune when it is time.

        The budget falls from a tenth of the run to seven tenths; then the ranks stay. As PEFT's
        `AdaLoraModel.update_and_allocate`, without writing to the model's configuration.
        """
        config, allocator = self._config, self._allocator
        config.total_step, config.tfinal = total, round(0.3 * total)
        config.tinit = min(round(0.1 * total), total - config.tfinal - 1)
        config.deltaT = max(1, total // 100)
        last = total - config.tfinal
        if self._settled:
            allocator.mask_using_rank_pattern(self, self._masks)
            return
        for _, parameter in self.named_parameters():
            if parameter.grad is None:  # a layer that nothing reads, as SDXL's last one of text_encoder
                parameter.grad = torch.zeros_like(parameter)
        # PEFT counts no importance at the very step of the last pruning, which in a tiny run is the first.
        if step >= last and not allocator.exp_avg_ipt:
            allocator.update_ipt(self)
        # The last pruning comes later where its step was left out, as in fp16.
        _, masks = allocator.update_and_allocate(self, step, force_mask=step >= last)
        self._masks = masks if masks is not None else self._masks
        self._settled = step >= last

    def pruned(self) -> dict[str, torch.Tensor]:
        """Return which singular values are zero for good, bool (r, 1), by their names among the trained."""
        if not self._settled:
            return {}
        assert self._masks is not None
        return {
            f"{name}.singular": one.trained()["singular"].new_tensor(self._masks[key])[:, None] == 0
            for key, (name, one) in zip(self._masks, self._layers.items(), strict=True)
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Return importances and masks by name; the names never change."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.named_parameters():
            zeros = torch.zeros_like(parameter)
            found[f"{name}.importance"] = self._allocator.exp_avg_ipt.get(name, zeros).detach().clone()
            found[f"{name}.uncertainty"] = self._allocator.exp_avg_unc.get(name, zeros).detach().clone()
            if name.endswith(f".{_PEFT_NAMES['singular']}.{NAME}"):
                mask = (
                    torch.ones(parameter.shape[0]) if self._masks is None else torch.tensor(self._masks[name])
                )
                found[f"{name}.mask"] = mask.float()
        found[f"{next(iter(self._layers))}.settled"] = torch.tensor([float(self._settled)])
        return found

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what `state` returned back."""
        allocator, masks = self._allocator, {}
        for name, parameter in self.named_parameters():
            allocator.ipt[name] = torch.zeros_like(parameter)
            allocator.exp_avg_ipt[name] = tensors[f"{name}.importance"].to(parameter).clone()
            allocator.exp_avg_unc[name] = tensors[f"{name}.uncertainty"].to(parameter).clone()
            if f"{name}.mask" in tensors:
                masks[name] = tensors[f"{name}.mask"].bool().tolist()
        self._masks = masks
        self._settled = bool(tensors[f"{next(iter(self._layers))}.settled"].item())


def _peft_name(name: str, part: str) -> str:
    return f"{name}.{_PEFT_NAMES[part]}.{NAME}"


def pruned(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the directions whose singular value is zero: ΔW stays what it is."""
    kept = parts["singular"].flatten() != 0
    return {"down": parts["down"][kept], "up": parts["up"][:, kept], "singular": parts["singular"][kept]}
