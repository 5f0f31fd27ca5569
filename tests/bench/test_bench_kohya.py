"""kohya's scripts are started on the same work, and a UNet of any shape; nothing here asserts a time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.errors import ConfigError
from trainers.bench import train_kohya
from trainers.bench.kohya import kohya
from trainers.bench.stand_ins import cv2, imagesize, voluptuous
from trainers.bench.train_turns import take_turn
from trainers.bench.train_ways import Case

UNET = """
import torch

BLOCK_OUT_CHANNELS, TIMESTEP_INPUT_DIM, TIME_EMBED_DIM = (320, 640, 1280, 1280), 320, 1280
LAYERS_PER_BLOCK, LAYERS_PER_BLOCK_UP, NORM_GROUPS, TRANSFORMER_NORM_NUM_GROUPS = 2, 3, 32, 32
DOWN_BLOCK_TYPES, UP_BLOCK_TYPES = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], []

class DownBlock2D(torch.nn.Module):
    def __init__(self, add_downsample=True):
        super().__init__()
        self.downsamplers = [torch.nn.Linear(1, 1)] if add_downsample else None
"""

LORA = """
class LoRANetwork:
    UNET_TARGET_REPLACE_MODULE = ["Transformer2DModel"]
"""

DIFFUSERS = "StableDiffusionPipeline = StableDiffusionXLPipeline = None\n"
"""In the place of the package, which takes seconds to import."""

SCRIPT = """
import json, sys
from pathlib import Path

import cv2, imagesize, torch, voluptuous
from torchvision import transforms
from transformers import CLIPFeatureExtractor
from library import original_unet
from networks.lora import LoRANetwork

assert __name__ == "__main__" and sys.path[0] == str(Path(__file__).parent)
words = sys.argv[1:]
given = {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}
config = json.loads((Path(given["--pretrained_model_name_or_path"]) / "unet" / "config.json").read_text())
assert original_unet.BLOCK_OUT_CHANNELS == tuple(config["block_out_channels"])
assert original_unet.TIMESTEP_INPUT_DIM == config["block_out_channels"][0]
assert original_unet.TIME_EMBED_DIM == 4 * config["block_out_channels"][0]
assert original_unet.LAYERS_PER_BLOCK_UP == config["layers_per_block"] + 1
assert original_unet.NORM_GROUPS == original_unet.TRANSFORMER_NORM_NUM_GROUPS == config["norm_num_groups"]
assert original_unet.DOWN_BLOCK_TYPES == config["down_block_types"]
assert original_unet.UP_BLOCK_TYPES == config["up_block_types"]
assert "downsamplers.0.weight" in original_unet.DownBlock2D().state_dict()
assert original_unet.DownBlock2D(add_downsample=False).downsamplers is None
assert LoRANetwork.UNET_TARGET_REPLACE_MODULE == ["CrossAttention"]
(concept,) = Path(given["--train_data_dir"]).iterdir()
repeats, caption = concept.name.split("_", 1)
pictures = sorted(concept.iterdir())
assert len(pictures) * int(repeats) > 4 * int(given["--train_batch_size"]), "an epoch holds all steps"
assert imagesize.get(pictures[0]) == (32, 32) and caption == "a photo of zqx creature"
assert (Path(given["--tokenizer_cache_dir"]) / "openai_clip-vit-large-patch14" / "merges.txt").is_file()
assert {"--network_train_unet_only", "--cache_latents", "--sdpa"} < set(words)
assert "--v_parameterization" not in words and "--gradient_checkpointing" not in words
assert given["--mixed_precision"] == "no" and given["--network_dim"] == given["--network_alpha"] == "4"
assert given["--network_module"] == "networks.lora" and given["--optimizer_type"] == "AdamW"
weight = torch.nn.Parameter(torch.zeros(5))
optimizer = torch.optim.AdamW([weight])
for step in range(int(given["--max_train_steps"])):
    weight.grad = torch.ones_like(weight)
    optimizer.step()
raise SystemExit("went on after the last step")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like sd-scripts, as far as the runner goes."""
    root = tmp_path_factory.mktemp("sd-scripts")
    files = {
        "train_network.py": SCRIPT, "sdxl_train_network.py": "", "library/original_unet.py": UNET,
        "networks/lora.py": LORA, "diffusers.py": DIFFUSERS,
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def case(tiny_folder: Path, tmp_path: Path) -> Case:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.new("RGB", (32, 32)).save(pictures / f"{index}.png")
    return Case(
        model=tiny_folder, family="sd15", pictures=pictures, batch=2, resolution=32, rank=4, dtype="fp32",
        device="cpu", steps=4, threads=1,
    )  # fmt: skip


def _words(way: Any, case: Case, folder: Path) -> list[str]:
    folder.mkdir()
    return list(way(case, folder, folder / "figures.json").command)


def test_its_script_is_given_the_same_work_in_the_models_shapes(checkout: Path, case: Case) -> None:
    # It runs in this Python as if it were another one, so that the model is made readable too.
    turn = take_turn(kohya(checkout, sys.executable), case, 1, timeout=60)
    assert not turn.failed
    assert turn.found["trained"] == 5


def test_what_another_version_of_transformers_needs_is_made_of_the_model(
    checkout: Path, case: Case, tmp_path: Path
) -> None:
    _words(kohya(checkout / "train_network.py", "another"), case, tmp_path / "run")
    made = tmp_path / "run" / "model"
    (file,) = (made / "text_encoder").glob("*.safetensors")
    (before,) = (case.model / "text_encoder").glob("*.safetensors")
    weights, own = load_file(file), load_file(before)
    assert set(weights) == {f"text_model.{key.removeprefix('text_model.')}" for key in own}
    assert all(torch.equal(weights[f"text_model.{key.removeprefix('text_model.')}"], own[key]) for key in own)
    assert (made / "unet").resolve() == (case.model / "unet").resolve()
    held = json.loads((case.model / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((made / "tokenizer" / "vocab.json").read_text()) == held["vocab"]
    merges = (made / "tokenizer" / "merges.txt").read_text().splitlines()
    assert [tuple(merge.split()) for merge in merges[1:]] == [tuple(merge) for merge in held["merges"]]


def test_options_follow_the_case(checkout: Path, case: Case, tmp_path: Path) -> None:
    changed = replace(case, device="cuda", dtype="bf16", checkpointing=True)
    words = _words(kohya(checkout), changed, tmp_path / "a")
    assert words[0] == sys.executable and words[words.index("--mixed_precision") + 1] == "bf16"
    assert "--gradient_checkpointing" in words and "--persistent_data_loader_workers" in words
    pooled = replace(case, family="sdxl")
    assert "--cache_text_encoder_outputs" not in _words(kohya(checkout), pooled, tmp_path / "b")
    words = _words(kohya(checkout, cached_text=True), pooled, tmp_path / "c")
    assert "--cache_text_encoder_outputs" in words and words[7].endswith("/sdxl_train_network.py")
    with pytest.raises(ConfigError, match=r"train_network\.py can't cache embeddings; measure sd15 without"):
        _words(kohya(checkout, cached_text=True), case, tmp_path / "d")
    with pytest.raises(ConfigError, match=r"no train_network\.py in .*; give a checkout of kohya's"):
        _words(kohya(tmp_path), case, tmp_path / "e")


def test_a_model_that_predicts_velocity_is_trained_so(checkout: Path, case: Case, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "scheduler").mkdir(parents=True)
    (model / "tokenizer").symlink_to(case.model / "tokenizer", target_is_directory=True)
    scheduler = {"prediction_type": "v_prediction"}
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    words = _words(kohya(checkout), replace(case, model=model), tmp_path / "run")
    assert "--v_parameterization" in words


def test_sdxls_unet_takes_the_shapes_of_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    class Transformer2DModel:
        def __init__(self, **given: Any) -> None:
            self.given = given

    unet: Any = ModuleType("library.sdxl_original_unet")
    unet.Transformer2DModel = Transformer2DModel
    monkeypatch.setitem(sys.modules, "library.sdxl_original_unet", unet)
    monkeypatch.setattr(torch.nn.GroupNorm, "__init__", torch.nn.GroupNorm.__init__)  # put back afterwards
    shapes = {
        "block_out_channels": [40, 80, 160], "norm_num_groups": 8, "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 256,
        "projection_class_embeddings_input_dim": 1696,
    }  # fmt: skip
    train_kohya.fit_sdxl(shapes)
    asked = {
        "num_attention_heads": 2, "attention_head_dim": 64, "in_channels": 160, "num_transformer_layers": 1,
        "use_linear_projection": True, "cross_attention_dim": 2048,
    }  # fmt: skip
    assert unet.Transformer2DModel(**asked).given == {
        "num_attention_heads": 20, "attention_head_dim": 8, "in_channels": 160, "num_transformer_layers": 10,
        "use_linear_projection": True, "cross_attention_dim": 256,
    }  # fmt: skip
    assert (unet.MODEL_CHANNELS, unet.TIME_EMBED_DIM, unet.ADM_IN_CHANNELS) == (40, 160, 1696)
    assert torch.nn.GroupNorm(32, 40).num_groups == 8
    assert torch.nn.GroupNorm(4, 40).num_groups == 4


# ── Stand-ins


def test_schemas_are_checked_as_voluptuous_does() -> None:
    schema = voluptuous.Schema(
        {voluptuous.Required("dir"): str, "rate": voluptuous.Any(float, int), "each": [{"n": int}],
         "pair": voluptuous.ExactSequence([int, int]), "fit": lambda value: value * 2}
    )  # fmt: skip
    given = {"dir": "a", "rate": 1, "each": [{"n": 1}, {}], "pair": [1, 2], "fit": 3}
    assert schema(given) == {**given, "fit": 6}
    wrong: list[Any] = [
        {},
        {"dir": 1},
        {"dir": "a", "rate": "1"},
        {"dir": "a", "other": 1},
        {"dir": "a", "each": 1},
    ]
    wrong += [
        {"dir": "a", "each": [{"n": "1"}]},
        {"dir": "a", "pair": [1]},
        [],
        {"dir": "a", "pair": [1, "2"]},
    ]
    for value in wrong:
        with pytest.raises(voluptuous.MultipleInvalid):
            schema(value)
    with pytest.raises(voluptuous.Invalid):
        voluptuous.Schema(voluptuous.Any(None, int))("1")
    options = voluptuous.Schema(voluptuous.Object({"n": int}), extra=voluptuous.ALLOW_EXTRA)
    assert options(SimpleNamespace(n=1, other="x", none=None)) == SimpleNamespace(n=1, other="x")
    with pytest.raises(voluptuous.MultipleInvalid):
        options(SimpleNamespace(n="1"))


def test_pictures_are_resized_and_turned_as_opencv_does(tmp_path: Path) -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    turned = cv2.cvtColor(picture, "COLOR_BGR2RGB")
    assert (turned[..., 0] == picture[..., 2]).all() and (turned[..., 1] == picture[..., 1]).all()
    both = np.concatenate([picture, picture[..., :1]], axis=2)
    assert (cv2.cvtColor(both, "COLOR_BGRA2RGBA")[..., 3] == both[..., 3]).all()
    with pytest.raises(NotImplementedError, match="install opencv"):
        cv2.cvtColor(picture, "COLOR_BGR2HSV")
    small = cv2.resize(picture, (3, 2), interpolation=cv2.INTERPOLATIONS["INTER_AREA"])
    means = picture.reshape(2, 2, 3, 2, 3).astype(float).mean((1, 3))
    assert small.shape == (2, 3, 3) and np.abs(small - means).max() <= 0.5
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert imagesize.get(tmp_path / "a.png") == (6, 4)
