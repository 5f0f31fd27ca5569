"""The forms of adapter files, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.adapter import AnyFactors
from pipelines.families import Family, with_text_model
from pipelines.formats import diffusers, embedding, kohya, pigment
from pipelines.formats.keys import ReadKey, ending_of
from pipelines.formats.metadata import LYCORIS
from pipelines.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class Format:
    """One form.

    kind: "file", one .safetensors, or "folder". read_key(key, family): canonical module name and part
    name, or None for a key of another form; None for a form that isn't told by single keys.
    write_key(module, part, family): the inverse. stated_alpha(module, rank, metadata, file name): the
    alpha of a module without an alpha tensor. normalise(factors): the same ΔW in the alphas that the
    form can hold. alpha_tensors: whether alphas are written as tensors. tokens: whether it holds
    learned tokens. exact: whether it holds every method with its options, whatever `Method.formats` says.
    module: what `ss_network_module` says in its files. readers: the tools that load it, for people.
    """

    id: str
    label: str
    readers: str
    kind: str = "file"
    read_key: ReadKey | None
    write_key: Callable[[str, str, Family], str]
    stated_alpha: Callable[[str, int, Mapping[str, str], str], float] = kohya.stated_alpha
    normalise: Callable[[Mapping[str, AnyFactors]], dict[str, AnyFactors]] = pigment.keep
    alpha_tensors: bool = True
    tokens: bool = False
    exact: bool = False
    module: str = "networks.lora"

    @property
    def lycoris(self) -> bool:
        """Whether its modules are LyCORIS', and spelled as `Method.for_lycoris` gives them."""
        return self.module == LYCORIS

    def holds(self, method: str) -> bool:
        """Whether it keeps a method's ΔW exactly."""
        return self.exact or self.id in METHODS[method].formats


def _peft_key(module: str, part: str, family: Family) -> str:
    component, path = module.split(".", 1)
    encoders = {encoder.component: encoder for encoder in family.text_encoders}
    # CLIPTextModelWithProjection keeps the level that current transformers leave out of CLIPTextModel.
    if component in encoders and encoders[component].model_class == "CLIPTextModelWithProjection":
        path = with_text_model(path)
    return f"base_model.model.{path}.{ending_of(part, 'peft')}"


FORMATS: dict[str, Format] = {
    "kohya": Format(
        id="kohya",
        label="kohya (other tools)",
        readers="A1111, Forge, ComfyUI, InvokeAI, diffusers",
        read_key=kohya.read_kohya,
        write_key=kohya.write_key,
        normalise=kohya.anchored,
    ),
    "diffusers": Format(
        id="diffusers",
        label="diffusers",
        readers="diffusers, InvokeAI; ComfyUI only in part",
        read_key=diffusers.read_key,
        write_key=diffusers.write_key,
        stated_alpha=diffusers.stated_alpha,
        normalise=diffusers.unscaled,
        alpha_tensors=False,
    ),
    "lycoris": Format(
        id="lycoris",
        label="LyCORIS",
        readers="ComfyUI, Forge; InvokeAI for most methods",
        read_key=kohya.read_lycoris,
        write_key=kohya.write_key,
        normalise=kohya.settled,
        module=LYCORIS,
    ),
    "peft": Format(
        id="peft",
        label="PEFT (a folder)",
        readers="PEFT, component by component",
        kind="folder",
        read_key=None,
        write_key=_peft_key,
        alpha_tensors=False,
    ),
    "pigment": Format(
        id="pigment",
        label="Pigment (every method)",
        readers="Pigment",
        read_key=pigment.read_key,
        write_key=pigment.write_key,
        tokens=True,
        exact=True,
        module="pigment",
    ),
    "embedding": Format(
        id="embedding",
        label="embedding (textual inversion)",
        readers="A1111, Forge, ComfyUI, InvokeAI, diffusers",
        read_key=embedding.read_key,
        write_key=embedding.write_key,
        normalise=embedding.keep,
        alpha_tensors=False,
        tokens=True,
    ),
}
