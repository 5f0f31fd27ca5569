"""Real training steps on a CPU, followed while they run."""

from __future__ import annotations

import torch

from pipelines.base import Base
from pipelines.prompts.encoding import Tokens, encode_numbers
from trainers.batches import Batch
from trainers.counting.demand import Demand, batch_loss
from trainers.counting.ledger import Ledger
from trainers.objective import Levels, noise_levels
from trainers.settings import ObjectiveConfig
from trainers.tuning import Injection

PLAIN = ObjectiveConfig()


def levels_of(base: Base) -> Levels:
    return noise_levels(base, PLAIN)


def measured(base: Base, demand: Demand, injection: Injection) -> int:
    """Bytes alive at most in a real step beyond what was there."""
    count = demand.samples
    noise = torch.randn(count, 4, *demand.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(
        latents=noise.clone(), noise=noise, input_noise=noise, timesteps=torch.full((count,), 5),
        share=torch.ones(count), mask=None, frames=torch.zeros(count, 6, dtype=torch.long),
        captions=("",) * count, streams=(0,) * count,
    )  # fmt: skip
    length = int(base.tokenizer.model_max_length)
    runs = [torch.full((count, length), 3)] * (demand.tokens // length)
    tokens = Tokens({row.component: runs for row in base.family.text_encoders}, len(runs))
    for parameter in injection.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    half, ledger = demand.half, Ledger()
    with torch.no_grad():
        told = encode_numbers(base, tokens)
    with injection.learning(), ledger:
        begun = ledger.forget_peak()
        if demand.trained:
            told = encode_numbers(base, tokens)
        with torch.autocast("cpu", dtype=half, enabled=half is not None):
            loss = batch_loss(base, levels_of(base), batch, told, PLAIN)
        loss.backward()
    return ledger.peak - begun
