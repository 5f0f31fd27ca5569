"""The forms of adapter files, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.adapter import LowRank
from pipelines.families import Family
from pipelines.formats import diffusers, kohya
from pipelines.formats.keys import Role


@dataclass(frozen=True, kw_only=True)
class Format:
    """One form.

    read_key(key, family): canonical module name and role, or None for a key of another form.
    write_key(module, role, family): the inverse. stated_alpha(module, rank, metadata, file name):
    the alpha of a module without an alpha tensor. normalise(factors): the same ΔW in the alphas
    that the form can hold. alpha_tensors: whether alphas are written as tensors.
    readers: the tools that load it, for people.
    """

    id: str
    label: str
    readers: str
    read_key: Callable[[str, Family], tuple[str, Role] | None]
    write_key: Callable[[str, Role, Family], str]
    stated_alpha: Callable[[str, int, Mapping[str, str], str], float]
    normalise: Callable[[Mapping[str, LowRank]], dict[str, LowRank]]
    alpha_tensors: bool


FORMATS: dict[str, Format] = {
    "kohya": Format(
        id="kohya",
        label="kohya (other tools)",
        readers="A1111, Forge, ComfyUI, InvokeAI, diffusers",
        read_key=kohya.parse_key,
        write_key=kohya.format_key,
        stated_alpha=kohya.stated_alpha,
        normalise=kohya.uniform,
        alpha_tensors=True,
    ),
    "diffusers": Format(
        id="diffusers",
        label="diffusers",
        readers="diffusers, InvokeAI; ComfyUI only in part",
        read_key=diffusers.parse_key,
        write_key=diffusers.format_key,
        stated_alpha=diffusers.stated_alpha,
        normalise=diffusers.unscaled,
        alpha_tensors=False,
    ),
}
