"""What a row of METHODS is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.methods.tuning import Tuning

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

    from pipelines.adapter import AnyFactors

    Tensors = Mapping[str, torch.Tensor]
    Terms = Callable[[], Sequence[tuple[float, Tensors]]]

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor that a method keeps per module.

    name: how Pigment calls it, the same in every method that has it. peft: how keys of PEFT's state
    dict end ("lora_A.weight"); empty where PEFT has no such tensor. lycoris: how keys of kohya's and
    LyCORIS' files end ("lora_down.weight"); empty where they have none. optional: whether a module may
    lack it. shared: whether PEFT keeps it once for all modules, of the largest size any of them needs.
    """

    name: str
    peft: str = ""
    lycoris: str = ""
    optional: bool = False
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """One fine-tuning method.

    id, label, paper: its key in METHODS, its name for people, where it was published.
    parts: its tensors. formats: keys of FORMATS that hold it exactly.
    delta(factors, weight): ΔW in fp32, of the weight's shape; `weight` is the base's own, (out, in) or
    (out, in, kh, kw), and may be None unless `needs_weight`. The field is None for methods that leave
    weights alone; no_delta says for people what they do instead. bias_delta(factors, bias): Δ of the bias
    in fp32, for methods that change it; None for the others.
    attach(module, terms): for methods that work beside the weights, hooks on the module that add the terms
    which act, each times its weight, to what it makes; returns their handles. on_attention: whether it sits
    on whole self-attentions of text encoders, whose "shape" is (heads, width of a head).
    shape(factors): the shape of the weight, or None where the factors alone don't tell.
    misfit(factors, shape): why the factors can't belong to a weight of that shape, or None.
    rank(factors): the size that people know it by; 0 where it has none.
    matrices(factors): fp32 (out, r) and (r, in·kh·kw) whose product is ΔW, or None where there are no
    such exact ones of moderate size: the field, or what it returns, is None.
    peft_type: PEFT's name of the tuner; empty where PEFT has none.
    peft_config(rank, alpha, target_modules, dropout): a PEFT configuration for training; target_modules
    are endings of module names.
    peft_fields(factors by module path): what `adapter_config.json` must say besides the target modules,
    so that PEFT applies these very factors.
    peft_reads: fields of `adapter_config.json` that only this method has, and uses.
    from_peft(config, module path, parts): (alpha, options) of one module from `adapter_config.json`.
    parts_from_peft(parts, options): Pigment's parts of PEFT's; None: they are the same. for_peft(factors
    by module path): the same ΔW stated so that one PEFT configuration holds all of it, with the parts as
    PEFT has them; None: they are so already. for_lycoris(factors): a module's tensors by part name as
    LyCORIS has them, alpha aside; None: the parts. Both raise AdapterError, in one line without the
    module's name, where the form can't hold the factors.
    linear_only: whether it can't sit on convolutions. tunings: the ways in which Pigment trains it.
    """

    id: str
    label: str
    paper: str
    parts: tuple[Part, ...]
    formats: tuple[str, ...]
    delta: Callable[[AnyFactors, torch.Tensor | None], torch.Tensor] | None
    shape: Callable[[AnyFactors], Shape | None]
    rank: Callable[[AnyFactors], int]
    misfit: Callable[[AnyFactors, Shape], str | None] | None = None
    bias_delta: Callable[[AnyFactors, torch.Tensor], torch.Tensor | None] | None = None
    needs_weight: bool = False
    no_delta: str = ""
    attach: Callable[[nn.Module, Terms], list[Any]] | None = None
    on_attention: bool = False
    matrices: Callable[[AnyFactors], tuple[torch.Tensor, torch.Tensor] | None] | None = None
    peft_type: str = ""
    peft_config: Callable[[int, float, Sequence[str], float], PeftConfig] | None = None
    peft_fields: Callable[[Mapping[str, AnyFactors]], dict[str, Any]] | None = None
    peft_reads: tuple[str, ...] = ()
    from_peft: (
        Callable[[Mapping[str, Any], str, Mapping[str, torch.Tensor]], tuple[float, dict[str, Any]]] | None
    ) = None
    parts_from_peft: Callable[[Tensors, Mapping[str, Any]], dict[str, torch.Tensor]] | None = None
    for_peft: Callable[[Mapping[str, AnyFactors]], dict[str, AnyFactors]] | None = None
    for_lycoris: Callable[[AnyFactors], dict[str, torch.Tensor]] | None = None
    linear_only: bool = False
    tunings: tuple[Tuning, ...] = ()

    @property
    def required(self) -> frozenset[str]:
        """Names of the parts that every module has."""
        return frozenset(part.name for part in self.parts if not part.optional)

    @property
    def known(self) -> frozenset[str]:
        """Names of all parts."""
        return frozenset(part.name for part in self.parts)
