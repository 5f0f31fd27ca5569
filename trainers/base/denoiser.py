"""Text encoder and UNet of the embedded base, trained jointly on the cached latents.

Several processes with one thread each and one all-reduce of the flattened gradients per step: on two
CPU cores that beats two threads in one process. The schedule runs by the clock, so that a build of N
minutes ends after N minutes on any machine; a stopped one goes on where it was.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trainers.base.latents import Latents
from trainers.base.latents import load as load_latents
from trainers.base.subjects import FIRST_BASE, SUBJECTS


@dataclass(frozen=True, kw_only=True)
class DenoiserPlan:
    """How the denoiser is trained; times in minutes, batch per process.

    `new_subject_weight`: how much more often subjects come up that the weights one continues from have
    never seen (1 for a build from nothing).
    """

    minutes: float
    processes: int = 2
    device: str = "cpu"
    batch: int = 32
    learning_rate: float = 8e-4
    text_factor: float = 0.7
    warmup_steps: int = 100
    decay_from: float = 0.4
    ema: float = 0.998
    empty_captions: float = 0.1
    new_subject_weight: float = 1.0
    snr_limit: float = 4.0
    checkpoint_minutes: float = 4.0
    seed: int = 0


def new_models(tokenizer: CLIPTokenizer, latent_channels: int, sample_size: int) -> dict[str, Any]:
    """Fresh text encoder and UNet of the embedded base's size (11 M and 1.6 M parameters)."""
    width = 192
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=width, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=sample_size, in_channels=latent_channels, out_channels=latent_channels,
        layers_per_block=1, block_out_channels=(64, 128, 192), norm_num_groups=16,
        cross_attention_dim=width, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return {"text_encoder": CLIPTextModel(text), "unet": unet}


def load_models(folder: Path) -> dict[str, Any]:
    """Text encoder and UNet of a pipeline folder, fp32, with the plain attention (faster backward)."""
    text = CLIPTextModel.from_pretrained(
        folder / "text_encoder", torch_dtype=torch.float32, attn_implementation="eager"
    )
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())
    return {"text_encoder": text, "unet": unet}


def load_in_fp32(folder: Path) -> None:
    """Make a saved transformers model of fp16 weights load in fp32 where nobody says otherwise.

    transformers takes the dtype from the config, diffusers takes fp32: a plain `from_pretrained` of the
    pipeline would mix the two and fail.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)  # a folder of the machine it was made on
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n")


class Timesteps:
    """Timesteps stratified over a batch, thinned where the signal drowns the noise.

    The density is proportional to min(1, limit / (SNR + 1)): with v-prediction those steps carry a large
    loss that teaches next to nothing about what is in the picture. Source: in the spirit of min-SNR
    weighting (Hang et al. 2023, eq. 8), as sampling instead of weighting and capped on one side only.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, limit: float) -> None:
        snr = alphas_cumprod / (1 - alphas_cumprod)
        density = (limit / (snr + 1)).clamp(max=1)
        self.edges = (density / density.sum()).cumsum(0)  # (T,)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count,) int64 in random order."""
        u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        t = torch.searchsorted(self.edges, u).clamp(max=len(self.edges) - 1)
        return t[torch.randperm(count, generator=generator)]


def v_target(latents: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """v = √ᾱ·ε − √(1−ᾱ)·x. Source: Salimans & Ho 2022, appendix D."""
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def batches(data: Latents, empty: torch.Tensor, plan: DenoiserPlan, rank: int, start: int) -> Iterator[dict]:
    """Without end: `latents` (B/2, C, h, w) fp32 and `tokens` (B/2, L); one process' own random stream."""
    generator = torch.Generator().manual_seed(plan.seed * 7919 + rank + 104729 * start)
    new = torch.tensor([s.name not in FIRST_BASE for s in SUBJECTS])
    weight = 1 + (plan.new_subject_weight - 1) * new[data.subject].float()
    while True:
        index = torch.multinomial(weight, 64 * plan.batch, replacement=True, generator=generator)
        for group in index.split(plan.batch // 2):
            tokens = data.tokens[group].clone()
            tokens[torch.rand(len(group), generator=generator) < plan.empty_captions] = empty
            yield {"latents": data.latents[group].float(), "tokens": tokens, "generator": generator}


def loss_of(models: dict[str, Any], batch: dict, timesteps: Timesteps, alphas: torch.Tensor) -> torch.Tensor:
    """Mean v-loss of one batch; every caption serves two timesteps, so the text tower runs on half."""
    device = alphas.device
    latents = batch["latents"].repeat_interleave(2, 0)  # (B, C, h, w)
    noise = torch.randn(latents.shape, generator=batch["generator"]).to(device)
    latents = latents.to(device)
    t = timesteps.sample(len(latents), batch["generator"]).to(device)  # (B,)
    alpha = alphas[t][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    text = models["text_encoder"](batch["tokens"].to(device)).last_hidden_state  # (B/2, L, D)
    prediction = models["unet"](noisy, t, text.repeat_interleave(2, 0)).sample
    return nn.functional.mse_loss(prediction.float(), v_target(latents, noise, alpha))


def rate(progress: float, step: int, plan: DenoiserPlan) -> float:
    """Factor of the learning rate: warm-up by steps, flat, then a cosine to zero by the clock."""
    decay = max(0.0, (progress - plan.decay_from) / (1 - plan.decay_from))
    return min(1.0, (step + 1) / plan.warmup_steps) * 0.5 * (1 + math.cos(math.pi * min(1.0, decay)))


class Run:
    """The state of one training: models, moving average, optimizer, clock; saved and restored whole."""

    def __init__(self, models: dict[str, Any], plan: DenoiserPlan, folder: Path) -> None:
        self.models, self.plan, self.folder = models, plan, folder
        groups: list[dict[str, Any]] = [
            {"params": list(models["unet"].parameters()), "factor": 1.0},
            {"params": list(models["text_encoder"].parameters()), "factor": plan.text_factor},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.parameters = [p for group in groups for p in group["params"]]
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = self.samples = 0
        self.elapsed = 0.0  # minutes

    def apply_gradients(self, progress: float) -> None:
        """All-reduce, clip, step, move the average."""
        flat = torch.cat([p.grad.reshape(-1) for p in self.parameters])
        if dist.is_initialized():
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
        flat *= (1.0 / flat.norm().clamp(min=1.0)).to(flat.device)
        offset = 0
        for p in self.parameters:
            p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
            offset += p.numel()
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * group["factor"] * rate(progress, self.step, self.plan)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.plan.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1

    def save(self) -> None:
        """One file, replaced atomically."""
        tensors: dict[str, torch.Tensor] = {}
        for i, (p, average) in enumerate(zip(self.parameters, self.average, strict=True)):
            state = self.optimizer.state[p]
            tensors |= {f"{i}.weight": p.detach(), f"{i}.average": average}
            tensors |= {f"{i}.first": state["exp_avg"], f"{i}.second": state["exp_avg_sq"]}
        about = {"step": str(self.step), "samples": str(self.samples), "elapsed": str(self.elapsed)}
        temporary = self.folder / "run.partial"
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=about)
        temporary.replace(self.folder / "run.safetensors")

    def restore(self) -> bool:
        """Whether there was a state to go on from."""
        path = self.folder / "run.safetensors"
        if not path.exists():
            return False
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = file.metadata()
        self.step, self.samples, self.elapsed = (
            int(about["step"]),
            int(about["samples"]),
            float(about["elapsed"]),
        )
        tensors = load_file(path)
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                p.copy_(tensors[f"{i}.weight"])
                self.average[i].copy_(tensors[f"{i}.average"])
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"{i}.first"].to(p.device),
                    "exp_avg_sq": tensors[f"{i}.second"].to(p.device),
                }
        return True

    def export(self, target: Path) -> None:
        """The averaged weights as fp16 folders `text_encoder` and `unet`."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, average in zip(self.parameters, self.average, strict=True):
                p.copy_(average)
        for name, model in self.models.items():
            half: Any = copy.deepcopy(model).half()
            half.save_pretrained(target / name)
            load_in_fp32(target / name)
        with torch.no_grad():
            for p, weight in zip(self.parameters, kept, strict=True):
                p.copy_(weight)


def train_rank(rank: int, plan: DenoiserPlan, folder: str, source: str, latents: str) -> None:
    """One process of the training; rank 0 keeps the clock, the log and the files."""
    work, base = Path(folder), Path(source)
    torch.set_num_threads(1 if plan.device == "cpu" else 8)
    if plan.processes > 1:
        store = dist.FileStore(str(work / f"store-{os.environ['PIGMENT_BUILD_ID']}"), plan.processes)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=plan.processes)
    models = {name: model.to(plan.device).train() for name, model in load_models(base).items()}
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    scheduler = DDIMScheduler.from_pretrained(base / "scheduler")
    run = Run(models, plan, work)
    run.restore()
    alphas = scheduler.alphas_cumprod.to(plan.device)
    timesteps = Timesteps(scheduler.alphas_cumprod, plan.snr_limit)
    source_of = batches(load_latents(Path(latents)), empty, plan, rank, run.step)
    fast = plan.device != "cpu" or torch.cpu._is_amx_tile_supported()
    saved, smooth = time.monotonic(), float("nan")
    while True:
        began = time.monotonic()
        clock = torch.tensor([run.elapsed / plan.minutes])
        if plan.processes > 1:
            dist.broadcast(clock, 0)
        if clock.item() >= 1:
            break
        with torch.autocast(plan.device, torch.bfloat16) if fast else nullcontext():
            loss = loss_of(models, next(source_of), timesteps, alphas)
        loss.backward()
        run.apply_gradients(clock.item())
        run.samples += plan.batch * plan.processes
        run.elapsed += (time.monotonic() - began) / 60
        if rank == 0 and run.step % 20 == 0:
            value = loss.item()
            smooth = value if math.isnan(smooth) else 0.9 * smooth + 0.1 * value
            row: dict[str, Any] = {"step": run.step, "samples": run.samples, "loss": round(smooth, 4)}
            row |= {"minutes": round(run.elapsed, 2), "factor": round(rate(clock.item(), run.step, plan), 4)}
            with (work / "curve.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if rank == 0 and time.monotonic() - saved > 60 * plan.checkpoint_minutes:
            run.save()
            saved = time.monotonic()
    if rank == 0:
        run.save()
        run.export(work)
        (work / "plan.json").write_text(
            json.dumps(asdict(plan) | {"samples": run.samples, "steps": run.step}, indent=1)
        )
    if plan.processes > 1:
        dist.destroy_process_group()


def train(plan: DenoiserPlan, folder: Path, source: Path, latents: Path) -> None:
    """Train from the pipeline folder `source` on the cache `latents`; writes `unet` and `text_encoder`."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PIGMENT_BUILD_ID"] = f"{os.getpid()}-{time.time_ns()}"
    arguments = (plan, str(folder), str(source), str(latents))
    if plan.processes == 1:
        train_rank(0, *arguments)
    else:
        torch.multiprocessing.spawn(train_rank, arguments, plan.processes)
