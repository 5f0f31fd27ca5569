"""Start a training script of kohya's sd-scripts on a UNet of any shape, with its LoRA on the attention.

`python train_kohya.py CONFIG SCRIPT …` runs SCRIPT, unmodified and as `__main__`, with what follows it.
CONFIG: the config.json of the UNet. kohya's own UNets have the published shapes in constants: these are set
to the config's here, and to what they are already for a published model. Its LoRA is put on the attention
alone (to_q, to_k, to_v, to_out.0), as in every way that it is measured against; by itself it also takes
feed-forward and projections. Packages that it imports and that are missing are stood in for. Imports nothing
of Pigment, so that a Python without it can run this.

Seen with sd-scripts of February 2026, under the packages that it pins and under transformers 5.23 with
diffusers 0.42.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MISSING = ("torchvision", "cv2", "imagesize", "voluptuous")
"""Packages that the scripts import, with a stand-in each."""


def main() -> None:
    """Run the script that the command line names."""
    config, script, *arguments = sys.argv[1:]
    # What Python would have done for the script: its folder first, not this file's.
    sys.path[0] = str(Path(script).resolve().parent)
    sys.argv = [script, *arguments]
    for package in MISSING:
        _clock().stand_in(package)
    _bridge()
    shapes = json.loads(Path(config).read_text(encoding="utf-8"))
    fit = fit_sdxl if shapes.get("addition_embed_type") == "text_time" else fit_sd
    fit(shapes)
    attention_only()
    runpy.run_path(script, run_name="__main__")


@functools.cache
def _clock() -> Any:
    """The module beside this one, which `python train_clock.py` runs as another."""
    file = Path(__file__).with_name("train_clock.py")
    spec = importlib.util.spec_from_file_location("pigment_train_clock", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bridge() -> None:
    """Lend transformers the name that version 5 dropped and that the scripts import (only to draw samples).

    diffusers imports transformers anew when it first makes a pipeline, so it comes first.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: F401

    transformers: Any = importlib.import_module("transformers")
    if not hasattr(transformers, "CLIPFeatureExtractor"):
        transformers.CLIPFeatureExtractor = type("CLIPFeatureExtractor", (), {})


def fit_sd(shapes: dict[str, Any]) -> None:
    """Give the UNet of Stable Diffusion 1 and 2 the shapes of a config."""
    import torch

    unet: Any = importlib.import_module("library.original_unet")
    widths = tuple(shapes["block_out_channels"])
    unet.BLOCK_OUT_CHANNELS = widths
    unet.TIMESTEP_INPUT_DIM, unet.TIME_EMBED_DIM = widths[0], 4 * widths[0]
    unet.LAYERS_PER_BLOCK = shapes["layers_per_block"]
    unet.LAYERS_PER_BLOCK_UP = unet.LAYERS_PER_BLOCK + 1
    unet.NORM_GROUPS = unet.TRANSFORMER_NORM_NUM_GROUPS = shapes["norm_num_groups"]
    unet.DOWN_BLOCK_TYPES, unet.UP_BLOCK_TYPES = shapes["down_block_types"], shapes["up_block_types"]

    def registered(block: Any) -> None:
        # A plain list there: in the published models a block without attention has nothing that samples down.
        if block.downsamplers:
            block.downsamplers = torch.nn.ModuleList(block.downsamplers)

    _after(unet.DownBlock2D, registered)


def fit_sdxl(shapes: dict[str, Any]) -> None:
    """Give the UNet of SDXL the shapes of a config."""
    import torch

    unet: Any = importlib.import_module("library.sdxl_original_unet")
    widths, groups = shapes["block_out_channels"], shapes["norm_num_groups"]
    unet.MODEL_CHANNELS, unet.TIME_EMBED_DIM = widths[0], 4 * widths[0]
    unet.ADM_IN_CHANNELS = shapes["projection_class_embeddings_input_dim"]
    transformer, norm = unet.Transformer2DModel.__init__, torch.nn.GroupNorm.__init__

    def sized(module: Any, **asked: Any) -> None:
        level = widths.index(asked["in_channels"])
        heads = shapes["attention_head_dim"][level]
        asked["num_attention_heads"], asked["attention_head_dim"] = heads, widths[level] // heads
        asked["num_transformer_layers"] = shapes["transformer_layers_per_block"][level]
        asked["cross_attention_dim"] = shapes["cross_attention_dim"]
        transformer(module, **asked)

    def grouped(module: Any, num_groups: int, *rest: Any, **others: Any) -> None:
        norm(module, groups if num_groups == 32 else num_groups, *rest, **others)

    unet.Transformer2DModel.__init__ = sized
    if groups != 32:
        torch.nn.GroupNorm.__init__ = grouped  # type: ignore[assignment, method-assign]


def attention_only() -> None:
    """Put kohya's LoRA on the attention's layers alone: the child modules of this class are they."""
    lora: Any = importlib.import_module("networks.lora")
    lora.LoRANetwork.UNET_TARGET_REPLACE_MODULE = ["CrossAttention"]


def _after(kind: Any, then: Callable[[Any], None]) -> None:
    """Call `then` with every new object of a class, once it is made."""
    made = kind.__init__

    def both(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        then(self)

    kind.__init__ = both


if __name__ == "__main__":
    main()
