"""Files of which a part fits: refused whole, read in part on request, every tensor left out is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import read_adapter, read_part, write_adapter
from pipelines.mixer import Mixer
from tests.tiny import random_adapter

STEM = "lora_unet_mid_block_attentions_0_proj_in"
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1"


@pytest.fixture
def odd(tiny_base: Base, tmp_path: Path) -> Path:
    """A kohya file with a half module, a broken one, an unknown key, a module too many and one too wide."""
    path = tmp_path / "odd.safetensors"
    modules = list(random_adapter(tiny_base).factors) + ["unet.mid_block.attentions.0.proj_in"]
    write_adapter(random_adapter(tiny_base, modules), path, dtype="fp32")
    tensors = load_file(path)
    del tensors[f"{STEM}.lora_up.weight"]
    first = f"{ATTENTION}_to_k"
    tensors[f"{first}.lora_down.weight"][0, 0] = float("nan")
    tensors["control.weight"] = torch.ones(1)
    stem = "lora_unet_mid_block_attentions_7_proj_in"
    tensors |= {
        f"{stem}.lora_down.weight": torch.ones(2, 32, 1, 1),
        f"{stem}.lora_up.weight": torch.ones(32, 2),
    }
    wide = first.replace("to_k", "to_q")
    tensors[f"{wide}.lora_up.weight"] = torch.ones(99, 4)
    save_file(tensors, path)
    return path


def test_the_sound_part_is_read_and_the_rest_named(odd: Path, tiny_base: Base) -> None:
    with pytest.raises(AdapterError, match=r"124 of 125 tensors known, for instance not 'control\.weight'"):
        read_adapter(odd)
    total = len(load_file(odd))
    loose, report = read_part(odd)
    assert report.keys == total
    assert report.matched + len(report.left) == total
    assert len(report.left) == 2 + 3 + 1
    assert report.as_text().startswith(f"{report.matched} of {total} tensors read\nleft out ")
    assert "unet.mid_block.attentions.7.proj_in" in loose.factors

    adapter, report = read_part(odd, tiny_base)
    adapter.check(tiny_base)
    assert len(adapter.factors) == 38
    left = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in report.left}
    assert set(left).isdisjoint(_keys_of(adapter.factors))
    assert report.matched == total - len(left)
    assert left["control.weight"] == "it isn't understood"
    assert "has no up factor" in left[f"{STEM}.lora_down.weight"]
    assert "aren't finite" in left[f"{ATTENTION}_to_k.alpha"]
    assert left["lora_unet_mid_block_attentions_7_proj_in.lora_up.weight"] == "the base has no such module"
    assert "(99, 16)" in left[f"{ATTENTION}_to_q.lora_up.weight"]
    with Mixer(tiny_base) as mixer:
        mixer.add("part", adapter)
        mixer.set({"part": 1.0})


def _keys_of(modules: object) -> set[str]:
    from pipelines.families import FAMILIES
    from pipelines.formats.kohya import write_key

    parts = ("down", "up", "alpha")
    return {write_key(module, part, FAMILIES["sd15"]) for module in modules for part in parts}  # type: ignore[attr-defined]


def test_a_whole_file_leaves_nothing_out(tiny_base: Base, tmp_path: Path) -> None:
    for format, name in (("kohya", "a.safetensors"), ("peft", "folder")):
        path = tmp_path / name
        write_adapter(random_adapter(tiny_base), path, format)
        adapter, report = read_part(path, tiny_base)
        assert report.left == ()
        assert report.matched == report.keys > 0
        assert adapter.factors.keys() == read_adapter(path).factors.keys()


def test_a_file_of_which_nothing_fits_is_refused(tiny_base: Base, tiny_sdxl: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"{STEM}.lora_up.weight": torch.ones(2, 2), "b": torch.ones(2)}, path)
    with pytest.raises(AdapterError, match=r"nothing of 'a\.safetensors' fits: all 2 tensors") as refusal:
        read_part(path)
    assert len(str(refusal.value)) < 300
    write_adapter(random_adapter(tiny_base), path)
    with pytest.raises(AdapterError, match=r"is for sd15, base .* is sdxl"):
        read_part(path, tiny_sdxl)
