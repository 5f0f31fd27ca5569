"""Options of a base that a command has no use for are refused, in one line, and what is used is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from studio.cli import main
from tests.studio.test_base_commands import here as here
from tests.studio.test_base_commands import refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("merge", "a.safetensors", "b.safetensors", "--base", "BASE"), "--base has no effect on merge"),
        (
            ("merge", "a.safetensors", "b.safetensors", "--offload", "parts"),
            "--offload has no effect on merge",
        ),
        (
            ("resize", "a.safetensors", "--rank", "1", "--base", "nope"),
            "--base has no effect on resize of lora",
        ),
        (
            ("resize", "a.safetensors", "--rank", "1", "--quantise", "int8"),
            "--quantise has no effect on resize",
        ),
        (("extract", "BASE", "--rank", "1", "--quantise", "int8"), "--quantise has no effect on extract"),
        (("inspect", "a.safetensors", "--anatomy", "--base", "BASE"), "--base has no effect on inspect"),
        (
            ("inspect", "a.safetensors", "--anatomy", "--against-base", "--base", "BASE", "--vae", "BASE"),
            "--vae has no effect on inspect",
        ),
        (("convert", "a.safetensors", "--part", "--vae-tiling"), "--vae-tiling has no effect on convert"),
        (
            ("mix", "a.safetensors", "--base", "BASE", "--attention", "sdpa"),
            "--attention has no effect on mix",
        ),
        (("train",), "nothing says what to learn"),
        (("train", "x.toml", "--attention", "sdpa"), "unrecognized arguments: --attention sdpa"),
        (("demo", "--attention", "sdpa"), "unrecognized arguments: --attention sdpa"),
    ],
)
def test_what_has_no_effect_is_refused(
    words: tuple[str, ...], says: str, tiny_folder: Path, make_adapter: Callable[..., Path], here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for seed, name in enumerate("ab"):
        make_adapter(here / f"{name}.safetensors", seed=seed)
    before = sorted(here.iterdir())
    message = refused(*(str(tiny_folder) if word == "BASE" else word for word in words), capsys=capsys)
    assert says in message
    assert sorted(here.iterdir()) == before


def test_an_adapter_is_mixed_folded_and_drawn_over_an_inpainting_base(
    make_adapter: Callable[..., Path], here: Path, tmp_path: Path
) -> None:
    from PIL import Image

    from tests.tiny import save_tiny_pipeline

    folder = save_tiny_pipeline(tmp_path / "inpainting", unet={"in_channels": 9})
    make_adapter(here / "a.safetensors")
    for weight in (0, 1):
        said = ["mix", f"a.safetensors:{weight}", "--prompt", "x", "--steps", "2", "--base", str(folder)]
        assert main([*said, "--out", f"{weight}.png"]) == 0
    fold = ["base", "fold", str(folder), "--adapter", "a.safetensors:1", "--out", "f.safetensors"]
    assert main(fold) == 0
    draw = ["generate", "x", "--base", "f.safetensors", "--steps", "2", "--guidance", "3", "--out", "f.png"]
    assert main([*draw, "--sampler", "ddim"]) == 0
    zero, one, folded = (Image.open(here / f"{name}.png").tobytes() for name in ("0", "1", "f"))
    assert zero != one
    assert max(abs(a - b) for a, b in zip(one, folded, strict=True)) <= 2
