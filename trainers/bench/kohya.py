"""kohya's sd-scripts as a way to train that is measured: `train_network.py`, and the one for SDXL.

The scripts run unmodified, on the same folder of a model, the same pictures, prompt, targets, rank, dtype and
optimizer, with latents cached as their documentation advises. They bring UNets of their own with the
published shapes, which `train_kohya` sets to the model's. Of packages that have no stand-in here they want
toml and einops, which lycoris-lora brings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.families import FAMILIES
from trainers.bench.train_ways import PROMPT, Case, Launch, Way, clocked

CHILD = Path(__file__).with_name("train_kohya.py")

SCRIPTS = {False: "train_network.py", True: "sdxl_train_network.py"}
"""By whether the family has pooled embeddings."""

TOKENIZERS = {
    "tokenizer": "openai_clip-vit-large-patch14",
    "tokenizer_2": "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k",
}
"""Parts of a model, and the folders in which kohya's scripts look for them before they ask the hub."""


def kohya(path: Path, python: str = "", *, cached_text: bool = False) -> Way:
    """kohya's LoRA script. path: a checkout of sd-scripts, or a script in it.

    python: the interpreter to run it in, for one with the packages that kohya pins; "" is this one, where
    small stand-ins take the place of packages that are missing. cached_text: with the text encoders' outputs
    embedded once, before the first step, which its script for SDXL alone can do.
    """

    def launch(case: Case, folder: Path, figures: Path) -> Launch:
        pooled = FAMILIES[case.family].pooled
        if cached_text and not pooled:
            raise ConfigError(
                f"kohya's {SCRIPTS[pooled]} can't cache embeddings; measure {case.family} without that"
            )
        script = find_script(path, SCRIPTS[pooled])
        model = _readable(case.model, folder / "model") if python else case.model
        config = model / "unet" / "config.json"
        words = [str(config), str(script), *_words(case, model, folder)]
        words += ["--cache_text_encoder_outputs"] if cached_text else []
        return clocked(case, figures, CHILD, words, python)

    return launch


def find_script(path: Path, name: str) -> Path:
    """Where a script of kohya's is. Raises: ConfigError where it isn't."""
    path = path.resolve()
    for place in (path / name, path.parent / name):
        if place.is_file() and (place.parent / "networks" / "lora.py").is_file():
            return place.resolve()
    raise ConfigError(f"there is no {name} in {path.name!r}; give a checkout of kohya's sd-scripts")


def _words(case: Case, model: Path, folder: Path) -> list[str]:
    """The script's arguments: what SPEED.md's protocol says, and what makes the work the same."""
    workers = {"cpu": 0}.get(case.device, 2)
    arguments: dict[str, Any] = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": _pictures(case, folder / "pictures"),
        "tokenizer_cache_dir": _tokenizers(model, folder / "tokenizers"),
        "output_dir": folder / "output",
        "resolution": f"{case.resolution},{case.resolution}",
        "train_batch_size": case.batch,
        "network_module": "networks.lora",
        "network_dim": case.rank,
        "network_alpha": case.rank,
        "optimizer_type": "AdamW",
        "learning_rate": case.learning_rate,
        "lr_scheduler": "constant",
        "max_train_steps": case.steps + 1,
        "seed": case.seed,
        "mixed_precision": {"fp32": "no"}.get(case.dtype, case.dtype),
        "max_data_loader_n_workers": workers,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    words += ["--network_train_unet_only", "--cache_latents", "--sdpa"]
    words += ["--persistent_data_loader_workers"] if workers else []
    words += ["--v_parameterization"] if _prediction(model) == "v_prediction" else []
    words += ["--gradient_checkpointing"] if case.checkpointing else []
    return words


def _prediction(model: Path) -> str:
    """What the model predicts, by its scheduler."""
    found: Mapping[str, Any] = json.loads(
        (model / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
    )
    return str(found.get("prediction_type", "epsilon"))


def _pictures(case: Case, folder: Path) -> Path:
    """The pictures as kohya takes them: in a folder named for how often each comes, and for its prompt.

    So often that all steps are of one epoch: what its script does between two of them isn't measured.
    """
    count = sum(1 for file in case.pictures.iterdir() if file.is_file())
    repeats = case.steps * case.batch // max(1, count) + 2
    folder.mkdir()
    (folder / f"{repeats}_{PROMPT}").symlink_to(case.pictures.resolve(), target_is_directory=True)
    return folder


def _tokenizers(model: Path, folder: Path) -> Path:
    """The model's tokenizers under the names by which kohya asks for the published ones."""
    for part, name in TOKENIZERS.items():
        source = model / part
        if not source.is_dir():
            continue
        _copied(source, folder / name)
    return folder


def _copied(source: Path, folder: Path) -> None:
    """Copy a tokenizer; its words and merges as two files too, as transformers 4 reads them."""
    shutil.copytree(source, folder)
    if (folder / "vocab.json").is_file():
        return
    held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in held["merges"]]
    (folder / "vocab.json").write_text(json.dumps(held["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _readable(model: Path, folder: Path) -> Path:
    """The model as transformers 4 reads it: tokenizers in two files, `text_model.` in text encoders' keys.

    Everything else is linked to. Source: transformers 5 dropped that level from CLIPTextModel, and saves
    without it; version 4 would take such weights for missing, and go on with random ones.
    """
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for part in model.iterdir():
        here = folder / part.name
        if part.name in TOKENIZERS:
            _copied(part, here)
        elif not part.name.startswith("text_encoder"):
            here.symlink_to(part.resolve(), target_is_directory=part.is_dir())
        else:
            here.mkdir()
            shutil.copy(part / "config.json", here)
            for file in part.glob("*.safetensors"):
                weights = {_prefixed(key): value for key, value in load_file(file).items()}
                save_file(weights, here / file.name, {"format": "pt"})
    return folder


def _prefixed(key: str) -> str:
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
