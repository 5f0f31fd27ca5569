"""Judges by folder, offline: tiny random models of each kind, and what is said where one can't be loaded."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import ASSETS, Base, quiet
from pipelines.errors import ConfigError
from tests.tiny import _byte_tokenizer
from trainers.evidence.judges import Judges, load_judges, load_likeness, load_structure
from trainers.settings import EvidenceConfig

PICTURES = [Image.new("RGB", (20, 30), "red"), Image.effect_noise((40, 24), 90), Image.new("L", (16, 16), 9)]
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny random models: clip, siglip and dino."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, SiglipConfig, SiglipModel
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder, square = tmp_path_factory.mktemp("judges"), {"height": 16, "width": 16}
    short = {"size": {"shortest_edge": 16}, "crop_size": square}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        for name, config, model, processor in (
            ("clip", CLIPConfig, CLIPModel, CLIPImageProcessorPil(**short)),
            ("siglip", SiglipConfig, SiglipModel, SiglipImageProcessorPil(size=square)),
        ):
            tokenizer = _byte_tokenizer(folder / name)
            text = {
                **SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
                "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id, "projection_size": 16,
            }  # fmt: skip
            sees = {**SMALL, "image_size": 16, "patch_size": 8}
            made = config(text_config=text, vision_config=sees, projection_dim=12)
            for part in (model(made), processor, tokenizer):
                part.save_pretrained(folder / name)
        Dinov2Model(Dinov2Config(**SMALL, image_size=16, patch_size=8)).save_pretrained(folder / "dino")
        BitImageProcessorPil(**short).save_pretrained(folder / "dino")
    return folder


def check_units(found: torch.Tensor, count: int) -> None:
    assert len(found) == count and torch.allclose(found.norm(dim=-1), torch.ones(count), atol=1e-5)
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_model_sees_and_reads_in_one_space(folders: Path, name: str) -> None:
    judge = load_likeness(str(folders / name))
    seen = judge.image_embeddings(PICTURES, 2)
    told = judge.text_embeddings(["a cat", "a far longer prompt than there is room for in so few tokens"], 1)
    check_units(seen, 3)
    check_units(told, 2)
    assert seen.shape[1] == told.shape[1] and judge.name == name
    assert torch.allclose(seen, judge.image_embeddings(PICTURES), atol=1e-5)


def test_a_clip_is_asked_as_transformers_does(folders: Path) -> None:
    from transformers import CLIPModel

    judge = load_likeness(str(folders / "clip"))
    model = CLIPModel.from_pretrained(folders / "clip")
    pixels = judge.processor(images=PICTURES[:1], return_tensors="pt")["pixel_values"]  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    assert torch.allclose(judge.image_embeddings(PICTURES[:1]), expected / expected.norm(), atol=1e-5)


@pytest.mark.parametrize("name", ["dino", "clip"])
def test_structure_is_seen_by_the_class_token(folders: Path, name: str) -> None:
    judge = load_structure(str(folders / name))
    check_units(judge.image_embeddings(PICTURES), 3)
    assert judge.name == name


@pytest.mark.parametrize(
    ("load", "name", "said"),
    [
        (load_likeness, "dino", "Dinov2Model"),
        (load_likeness, "missing", "evidence.judge"),
        (load_structure, "missing", "evidence.structure_judge"),
        (load_likeness, ".", "CLIP or SigLIP"),
    ],
)
def test_what_cannot_judge_is_refused_in_one_line(
    folders: Path, load: Callable[[str], Any], name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(str(folders / name))
    assert "\n" not in str(caught.value) and "leave it out" in str(caught.value)


def test_the_towers_beside_a_base_judge_unasked_and_no_chance_moves(
    folders: Path, tiny_base: Base, pocket: Base
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    own = load_judges(pocket, EvidenceConfig(structure_judge=str(folders / "dino")))
    assert own.likeness is not None and own.structure is not None
    assert own.describe() == "likeness by the base's own towers, structure by dino"
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    none = load_judges(tiny_base, EvidenceConfig())
    assert none.likeness is none.structure is None and "evidence.judge" in none.describe()
    assert load_judges(None, EvidenceConfig()).likeness is None
    named = load_judges(tiny_base, EvidenceConfig(judge=str(ASSETS / "pocket")))
    assert named.likeness is not None
    assert Judges(named.likeness).describe().startswith("likeness by")
