"""Sound adapter files of every form that can be written, small: what hostile ones are made of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.base import Base

MODEL = "adapter.safetensors"
SIDECAR = "adapter.json"
PEFT_MODEL = "unet/adapter_model.safetensors"
PEFT_CONFIG = "unet/adapter_config.json"
OTHERS = ("sd2", "sdxl")
"""Families whose files come beside those of Stable Diffusion 1.x."""


@dataclass(frozen=True)
class Seed:
    """A sound adapter.

    name: "FAMILY FORMAT METHOD". files: its bytes by their path: MODEL, or PEFT_MODEL and PEFT_CONFIG.
    """

    name: str
    files: dict[str, bytes]

    @property
    def main(self) -> str:
        """The path of its tensors."""
        return MODEL if MODEL in self.files else PEFT_MODEL

    @property
    def ours(self) -> bool:
        """Whether it states its own hash, by which any change of its numbers is told."""
        return b"modelspec.hash_sha256" in self.files[self.main]


@cache
def tiny_base(family: str = "sd15") -> Base:
    """A random base, made once in this process. Nobody may change it for good."""
    from pipelines.base import load_base
    from tests.tiny import save_tiny_pipeline

    with tempfile.TemporaryDirectory(prefix="pigment-tiny-") as folder:
        base = load_base(save_tiny_pipeline(Path(folder) / "base", family=family), device="cpu")
        for part in (base.unet, base.vae, *base.text_encoders().values()):
            for parameter in part.parameters():  # the files go, so nothing may be their memory map
                parameter.data = parameter.data.clone()
    return base


@cache
def seeds(families: tuple[str, ...] = ("sd15",)) -> tuple[Seed, ...]:
    """One file of every form and method that the form holds, of these families, and learned words."""
    from pipelines.formats import FORMATS
    from pipelines.methods import METHODS

    found = []
    with tempfile.TemporaryDirectory(prefix="pigment-seeds-") as folder:
        for family in families:
            base = tiny_base(family)
            # The first family has every method; in others names and shapes differ, methods don't.
            methods = list(METHODS) if family == families[0] else ["lora", "dora", "lokr"]
            for form in FORMATS:
                kinds = [one for one in methods if FORMATS[form].holds(one)]
                kinds += ["words"] if FORMATS[form].tokens else []
                for method in kinds if form != "embedding" else ["words"]:
                    adapter = _adapter(base, method)
                    place = Path(folder) / f"{family}-{form}-{method}"
                    files = _written(adapter, form, place)
                    found.append(Seed(f"{family} {form} {method}", files))
                    if FORMATS[form].kind == "file" and not FORMATS[form].exact:
                        found.append(Seed(f"{family} foreign-{form} {method}", _foreign(files[MODEL])))
    return tuple(found)


def _adapter(base: Base, method: str) -> Any:
    import torch

    from pipelines.adapter import Adapter
    from tests.pipelines.making import few, random_adapter_of

    if method != "words":
        return random_adapter_of(base, method, few(base, method)[:3], rank=2)
    encoders = base.text_encoders()
    generator = torch.Generator().manual_seed(1)
    vectors = {
        name: torch.randn((2, int(encoder.config.hidden_size)), generator=generator)
        for name, encoder in encoders.items()
    }
    return Adapter(name="word", tokens={"<cat>": vectors}, family=base.family.id, triggers=("<cat>",))


def _written(adapter: Any, form: str, place: Path) -> dict[str, bytes]:
    from pipelines.formats import write_adapter

    place.mkdir()
    if form != "peft":
        write_adapter(adapter, place / MODEL, form)
        return {MODEL: (place / MODEL).read_bytes()}
    write_adapter(adapter, place / "peft", form)
    part = next(one for one in sorted((place / "peft").iterdir()) if one.is_dir())
    return {
        PEFT_MODEL: (part / "adapter_model.safetensors").read_bytes(),
        PEFT_CONFIG: (part / "adapter_config.json").read_bytes(),
    }


def _foreign(raw: bytes) -> dict[str, bytes]:
    """The same tensors as another tool writes them, saying nothing of themselves."""
    from safetensors.torch import load, save

    return {MODEL: save(load(raw))}
