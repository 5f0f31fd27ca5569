"""The embedded base from nothing, or onwards from an existing one, in stages that resume.

A stage leaves a folder under `DIR/work/` and a mark when it is whole; a build that was stopped goes on
with the first stage that has no mark. The finished pipeline stands in `DIR` itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.errors import ConfigError
from trainers.base.subjects import SUBJECTS
from trainers.evidence.provenance import machine

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What to build. `minutes` is shared out among the trained stages by `SHARES`.

    `source` is a finished base to go on from: its tokenizer and encoder are kept, its decoder trained on
    for `decoder_minutes` besides, its text encoder, UNet and towers trained on; None builds all of it from
    nothing.
    """

    out: Path
    minutes: float
    source: Path | None = None
    processes: int = 2
    device: str = "cpu"
    variants: int = 240
    size: int = 64
    decoder_minutes: float = 0.0
    new_subject_weight: float = 1.0
    seed: int = 0

    @property
    def work(self) -> Path:
        return self.out / "work"

    def share(self, stage: str) -> float:
        """Minutes of a stage."""
        shares = {k: v for k, v in SHARES.items() if not (k == "autoencoder" and self.source)}
        return self.minutes * shares[stage] / sum(shares.values())


# Pictures that the autoencoder and the towers see, composed once per stage.
PICTURES = 24_000
SHARES = {"autoencoder": 0.25, "denoiser": 0.69, "towers": 0.06}


def tokenizer(plan: BuildPlan) -> None:
    """Learn the merges, or take the source's: its text encoder knows no others."""
    from trainers.base.tokenizer import build

    if plan.source:
        shutil.copytree(plan.source / "tokenizer", plan.work / "model" / "tokenizer", dirs_exist_ok=True)
    else:
        build(plan.work / "model" / "tokenizer")


def autoencoder(plan: BuildPlan) -> None:
    """Train the autoencoder, or take the source's, whose latents its UNet knows: then at most the decoder."""
    from trainers.base.autoencoder import AutoencoderPlan, train

    if plan.source and plan.decoder_minutes == 0:
        shutil.copytree(plan.source / "vae", plan.work / "model" / "vae", dirs_exist_ok=True)
        return
    minutes = plan.decoder_minutes if plan.source else plan.share("autoencoder")
    train(
        AutoencoderPlan(
            minutes=minutes,
            size=plan.size,
            pictures=PICTURES,
            decoder_only=plan.source is not None,
            threads=plan.processes,
            seed=plan.seed,
        ),
        plan.work / "autoencoder",
        plan.source / "vae" if plan.source else None,
    )
    shutil.copytree(plan.work / "autoencoder" / "vae", plan.work / "model" / "vae", dirs_exist_ok=True)


def latents(plan: BuildPlan) -> None:
    """Encode `variants` pictures per subject, one shard per process."""
    from trainers.base.latents import build_shard

    model, folder = plan.work / "model", plan.work / "latents"
    count = plan.variants * len(SUBJECTS) // plan.processes
    jobs = [
        (str(model / "vae"), str(model / "tokenizer"), str(folder), i, count, plan.seed + 1000)
        for i in range(plan.processes)
    ]
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=build_shard, args=job) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process that encodes the corpus ended early; its message stands above")


def denoiser(plan: BuildPlan) -> None:
    """Train text encoder and UNet jointly."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    from trainers.base.denoiser import DenoiserPlan, new_models, train

    model = plan.work / "model"
    DDIMScheduler(
        **_BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    ).save_pretrained(model / "scheduler")
    start = plan.work / "start"
    if not start.exists():
        shutil.copytree(model, start)
        if plan.source:
            for part in ("text_encoder", "unet"):
                shutil.copytree(plan.source / part, start / part)
        else:
            torch.manual_seed(plan.seed)
            vae = json.loads((model / "vae" / "config.json").read_text())
            side = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
            fresh = new_models(
                CLIPTokenizer.from_pretrained(model / "tokenizer"), vae["latent_channels"], side
            )
            for name, module in fresh.items():
                module.save_pretrained(start / name)
    settings = DenoiserPlan(
        minutes=plan.share("denoiser"),
        processes=1 if plan.device != "cpu" else plan.processes,
        device=plan.device,
        batch=256 if plan.device != "cpu" else 32,
        decay_from=0.6 if plan.source else 0.4,
        new_subject_weight=plan.new_subject_weight,
        seed=plan.seed,
    )
    train(settings, plan.work / "denoiser", start, plan.work / "latents")
    for part in ("text_encoder", "unet"):
        shutil.copytree(plan.work / "denoiser" / part, model / part, dirs_exist_ok=True)


def towers(plan: BuildPlan) -> None:
    """Train the image tower and the text projection; assemble the pipeline in `out`."""
    from trainers.base.towers import train

    model = plan.work / "model"
    if plan.source and (plan.source / "image_encoder").exists() and not (model / "image_encoder").exists():
        shutil.copytree(plan.source / "image_encoder", model / "image_encoder")
    train(
        model,
        plan.work / "towers",
        plan.share("towers"),
        seed=plan.seed,
        pairs=PICTURES,
        threads=plan.processes,
    )


def assemble(plan: BuildPlan) -> None:
    """Put the pipeline's parts and index into `out`."""
    model = plan.work / "model"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for part in sorted(model.iterdir()):
        if part.is_dir():
            shutil.copytree(part, plan.out / part.name, dirs_exist_ok=True)
        else:
            shutil.copy(part, plan.out / part.name)


def measure(plan: BuildPlan) -> None:
    """Write `quality.json`, the sample grid, the curves and the model card."""
    from trainers.base.card import curves, write_card
    from trainers.base.measure import measure as run

    write_history(plan)
    run(plan.out, command=command(plan), classifier_file=plan.work / "classifier.safetensors")
    curves(plan.work, plan.out / "curves.png")
    write_card(plan.out)


def write_history(plan: BuildPlan) -> None:
    """`out/history.json`: the source's steps and this build's own."""
    known = plan.source / "history.json" if plan.source else None
    steps = json.loads(known.read_text()) if known and known.exists() else []
    about = json.loads((plan.work / "denoiser" / "plan.json").read_text())
    here = machine()
    steps.append(
        {
            "what": "Text encoder and UNet trained on" if plan.source else "All parts from nothing",
            "samples": about["samples"],
            "subjects": len(SUBJECTS),
            "minutes": round(about["minutes"], 1),
            "machine": f"{here['cores']} cores of {here['processor']}, device {plan.device}",
            "seed": plan.seed,
        }
    )
    (plan.out / "history.json").write_text(json.dumps(steps, indent=1, ensure_ascii=False) + "\n")


def command(plan: BuildPlan) -> str:
    """The command that this build was, with paths of the repository only."""
    options = " --from assets/pocket" if plan.source else ""
    if plan.new_subject_weight != 1:
        options += f" --new-subject-weight {plan.new_subject_weight:g}"
    return f"python -m trainers.base build --out DIR --minutes {plan.minutes:g}{options}"


STAGES: dict[str, Callable[[BuildPlan], None]] = {
    "tokenizer": tokenizer,
    "autoencoder": autoencoder,
    "latents": latents,
    "denoiser": denoiser,
    "towers": towers,
    "assemble": assemble,
    "measure": measure,
}


def build(plan: BuildPlan, say: Callable[[str], None] = print) -> None:
    """Run the stages that have no mark yet.

    Raises:
        ConfigError: the folder holds a build from another source or seed, or the source is no base.
    """
    if plan.source and not (plan.source / "model_index.json").exists():
        raise ConfigError(f"{plan.source} holds no base (model_index.json is missing); give a finished one")
    plan.work.mkdir(parents=True, exist_ok=True)
    identity = {"source": str(plan.source), "seed": plan.seed, "variants": plan.variants, "size": plan.size}
    about = plan.work / "about.json"
    if about.exists() and json.loads(about.read_text()) != identity:
        raise ConfigError(
            f"{plan.out} holds a build with {json.loads(about.read_text())}, not {identity}; "
            "choose another --out or delete its work folder"
        )
    about.write_text(json.dumps(identity))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, stage in STAGES.items():
        mark = plan.work / f"{name}.done"
        if mark.exists():
            say(f"{name}: done before")
            continue
        say(f"{name}: started")
        stage(plan)
        mark.touch()
        say(f"{name}: done")
