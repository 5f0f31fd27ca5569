"""Learned tokens (textual inversion): every spelling is read, and written as other tools read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS, inspect_adapter, read_adapter, write_adapter
from tests.tiny import random_adapter

# Widths of the published text encoders, by component.
WIDTHS = {
    "sd15": {"text_encoder": 768},
    "sd2": {"text_encoder": 1024},
    "sdxl": {"text_encoder": 768, "text_encoder_2": 1280},
}


def token_adapter(widths: dict[str, int], family: str, tokens: tuple[str, ...] = ("<my cat>",)) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    vectors = {
        token: {
            component: torch.randn((2, width), generator=generator) for component, width in widths.items()
        }
        for token in tokens
    }
    return Adapter(name="cat", family=family, tokens=vectors, triggers=tokens)


def assert_same_tokens(one: Adapter, other: Adapter) -> None:
    assert one.tokens.keys() == other.tokens.keys()
    for token, vectors in one.tokens.items():
        assert vectors.keys() == other.tokens[token].keys()
        for component, vector in vectors.items():
            assert torch.equal(vector, other.tokens[token][component])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", [row.id for row in FORMATS.values() if row.tokens])
def test_tokens_come_back_with_their_family(family: str, format: str, tmp_path: Path) -> None:
    adapter = token_adapter(WIDTHS[family], family)
    path = tmp_path / "file.safetensors"
    write_adapter(adapter, path, format, "fp32")
    back = read_adapter(path)
    assert_same_tokens(adapter, back)
    assert (back.family, back.name, back.triggers) == (family, "cat", ("<my cat>",))
    about = inspect_adapter(path)
    assert (about["format"], about["family"], about["tokens"]) == (format, family, ["<my cat>"])
    assert (about["method"], about["methods"], about["modules"]) == ("embedding", [], 0)
    assert about["components"] == sorted(WIDTHS[family])


def test_files_have_the_keys_that_other_tools_look_for(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    for family, keys in (("sd15", {"emb_params"}), ("sd2", {"emb_params"}), ("sdxl", {"clip_l", "clip_g"})):
        write_adapter(token_adapter(WIDTHS[family], family), path, "embedding")
        assert load_file(path).keys() == keys
    metadata = inspect_adapter(path)["metadata"]
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/textual-inversion"


@pytest.mark.parametrize(
    ("tensors", "family", "token"),
    [
        ({"emb_params": torch.ones(3, 768)}, "sd15", "file"),
        ({"emb_params": torch.ones(768)}, "sd15", "file"),
        ({"emb_params": torch.ones(1, 1024)}, "sd2", "file"),
        ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, "sdxl", "file"),
        ({"<cat>": torch.ones(2, 768)}, "sd15", "<cat>"),
        ({"<cat toy>": torch.ones(2, 1024)}, "sd2", "<cat toy>"),
        ({"zwölf": torch.ones(1, 768)}, "sd15", "zwölf"),
    ],
)
def test_foreign_files_are_read(
    tensors: dict[str, torch.Tensor], family: str, token: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    save_file(tensors, path)
    adapter = read_adapter(path)
    assert (adapter.family, tuple(adapter.tokens), adapter.triggers) == (family, (token,), (token,))
    assert all(vectors.ndim == 2 for vectors in adapter.tokens[token].values())
    assert inspect_adapter(path)["tokens"] == [token]


def test_a_file_saved_for_diffusers_loads_there_and_here(tiny_base: Base, tmp_path: Path) -> None:
    """diffusers and Pigment give the same vectors to the text encoder, from either's file."""
    import diffusers

    adapter = token_adapter({"text_encoder": 32}, "sd15", ("<cat>",))
    path = tmp_path / "cat.safetensors"
    write_adapter(adapter, path, "embedding", "fp32")
    save_file({"<cat>": adapter.tokens["<cat>"]["text_encoder"]}, tmp_path / "theirs.safetensors")
    for name, token in (("cat", "<cat>"), ("theirs", None)):
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_base.path, local_files_only=True)
        pipeline.load_textual_inversion(str(tmp_path), weight_name=f"{name}.safetensors", token=token)
        first = pipeline.tokenizer.convert_tokens_to_ids("<cat>")
        learned = pipeline.text_encoder.get_input_embeddings().weight[first : first + 2]
        assert torch.equal(learned, adapter.tokens["<cat>"]["text_encoder"])
        assert_same_tokens(adapter, read_adapter(tmp_path / f"{name}.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_bundled_with_lora_are_read(
    family: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_base(tiny_folders[family], device="cpu")
    path = tmp_path / "a.safetensors"
    adapter = random_adapter(base)
    write_adapter(adapter, path, "kohya")
    tensors = load_file(path)
    if family == "sdxl":
        keys = {"bundle_emb.<cat>.clip_l": "text_encoder", "bundle_emb.<cat>.clip_g": "text_encoder_2"}
    else:
        keys = {"bundle_emb.<cat>.string_to_param.*": "text_encoder"}
    widths = {name: encoder.config.hidden_size for name, encoder in base.text_encoders().items()}
    tensors |= {key: torch.ones(2, widths[component]) for key, component in keys.items()}
    save_file(tensors, path)
    back = read_adapter(path, family=family)
    back.check(base)
    assert back.factors.keys() == adapter.factors.keys()
    assert {name: vector.shape for name, vector in back.tokens["<cat>"].items()} == {
        component: (2, width) for component, width in widths.items()
    }
    for format in ("kohya", "diffusers", "lycoris", "peft"):
        with pytest.raises(AdapterError, match="export the two apart"):
            write_adapter(back, tmp_path / "b.safetensors", format)
    with pytest.raises(AdapterError, match="which an embedding file can't hold"):
        write_adapter(back, tmp_path / "b.safetensors", "embedding")
    write_adapter(back, tmp_path / "b.safetensors", "pigment")
    again = read_adapter(tmp_path / "b.safetensors")
    assert_same_tokens(back, again)
    assert again.factors.keys() == adapter.factors.keys()


def test_several_tokens_need_the_form_that_holds_them(tmp_path: Path) -> None:
    adapter = token_adapter(WIDTHS["sd15"], "sd15", ("<a>", "b.c"))
    path = tmp_path / "a.safetensors"
    with pytest.raises(AdapterError, match="has 2 tokens and an embedding file holds one"):
        write_adapter(adapter, path, "embedding")
    write_adapter(adapter, path, "pigment", "fp32")
    assert_same_tokens(adapter, read_adapter(path))
    half = token_adapter({"text_encoder": 768}, "sdxl")
    with pytest.raises(AdapterError, match=r"needs \['text_encoder', 'text_encoder_2'\]"):
        write_adapter(half, path, "embedding")


@pytest.mark.parametrize("key", ["<a/b>", "../<cat>", "<cat>\n", "a\\b", "<c\u202eat>", '"cat"', "$(cat)"])
def test_token_names_that_mean_something_elsewhere_are_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({key: torch.ones(2, 768)}, path)
    with pytest.raises(AdapterError, match="has a tensor named"):
        read_adapter(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(2, 33)},
        {"cat": torch.ones(2, 2, 768)},
        {f"cat{index}": torch.ones(1, 768) for index in range(65)},
        {"lora_cat": torch.ones(1, 768)},
    ],
)
def test_bare_tensors_are_no_tokens(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(AdapterError, match="isn't understood as an adapter"):
        read_adapter(path)
