"""How other libraries load the files that Pigment writes: the second opinion of a conformance check.

Each function takes a fresh diffusers pipeline and a file, loads the file by another library's own
code, and says per module what its weight changes by. Nothing here knows Pigment's readers or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS
from pipelines.uncompiled import peft_uncompiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from pipelines.adapter import Adapter

Changes = Mapping[str, Callable[[], "torch.Tensor"]]
"""By canonical module name (or `<text encoder>:<token>`): how to get ΔW (or the vectors), fp32."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """One library that loads a form. load(pipeline, adapter, path): puts the file into the pipeline."""

    name: str
    load: Callable[[Any, Adapter, Path], Changes]


def by_diffusers(pipeline: Any, adapter: Adapter, path: Path) -> Changes:
    """Load a LoRA file by `load_lora_weights`."""
    with refusals("diffusers"):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    return _tuned(pipeline, adapter)


def by_peft(pipeline: Any, adapter: Adapter, path: Path) -> Changes:
    """Load a folder of PEFT adapters by `PeftModel.from_pretrained`, component by component."""
    from peft import PeftModel

    peft_uncompiled()
    with refusals("PEFT"):
        for component in FAMILIES[adapter.family].components:
            if (path / component).is_dir():
                PeftModel.from_pretrained(getattr(pipeline, component), str(path / component))
    return _tuned(pipeline, adapter)


def by_lycoris(pipeline: Any, adapter: Adapter, path: Path) -> Changes:
    """Load a LyCORIS file by LyCORIS' own modules, which take the place of the layers' forward.

    Its `get_merged_weight` applies LoHa's scale twice (4.1), so what a layer does to unit impulses is asked.
    """
    from lycoris.modules import get_module, make_module
    from lycoris.modules.ia3 import IA3Module
    from safetensors.torch import load_file

    state, family, row = load_file(path), FAMILIES[adapter.family], FORMATS["lycoris"]
    found: dict[str, Callable[[], torch.Tensor]] = {}
    with refusals("LyCORIS"):
        for module, factors in adapter.factors.items():
            stem = row.write_key(module, next(iter(factors.parts)), family).split(".", 1)[0]
            layer = _layer(pipeline, module)
            kind, parameters = get_module(state, stem)
            if kind is IA3Module:  # its loader takes another number of tensors than it asks for (4.1)
                tuned = kind(stem, layer, 1, train_on_input=bool(parameters[1]))
                tuned.weight.data.copy_(parameters[0].reshape(tuned.weight.shape))
            else:
                tuned = None if kind is None else make_module(kind, parameters, stem, layer)
            if tuned is not None:
                weight, bias = layer.weight.detach().clone(), layer.bias
                tuned.to(weight)
                by_its_word = weight.ndim == 1
                found[module] = _by_its_word(tuned) if by_its_word else _by_impulses(layer, weight, bias)
                tuned.apply_to()
    return found


def by_textual_inversion(pipeline: Any, adapter: Adapter, path: Path) -> Changes:
    """Load an embedding file by `load_textual_inversion`, once per text encoder."""
    from safetensors.torch import load_file

    state, found = load_file(path), {}
    encoders = FAMILIES[adapter.family].text_encoders
    token = next(iter(adapter.tokens))
    for row in encoders:
        encoder, tokenizer = getattr(pipeline, row.component), getattr(pipeline, row.tokenizer)
        with refusals("diffusers"):
            pipeline.load_textual_inversion(
                {token: state[row.embedding_key]}, token=token, text_encoder=encoder, tokenizer=tokenizer
            )
        names = [token, *(f"{token}_{n}" for n in range(1, len(state[row.embedding_key])))]
        ids = tokenizer.convert_tokens_to_ids(names)
        rows = encoder.get_input_embeddings().weight[ids].detach().float()
        found[f"{row.component}:{token}"] = lambda rows=rows: rows
    return found


LIBRARIES: dict[str, Library] = {
    "kohya": Library(name="diffusers", load=by_diffusers),
    "diffusers": Library(name="diffusers", load=by_diffusers),
    "peft": Library(name="PEFT", load=by_peft),
    "lycoris": Library(name="LyCORIS", load=by_lycoris),
    "embedding": Library(name="diffusers", load=by_textual_inversion),
}
"""By form: the library that loads it here. A form that isn't named is read by Pigment alone."""


@contextmanager
def refusals(library: str, what: str = "load the file") -> Iterator[None]:
    """Turn what a library raises while it does something with a file into one line."""
    try:
        yield
    except (ValueError, KeyError, RuntimeError, TypeError, OSError, AttributeError, AssertionError) as error:
        text = str(error).strip()
        reason = text.splitlines()[0][:160] if text else type(error).__name__
        raise AdapterError(f"export failed: {library} can't {what} ({reason}); nothing was kept") from error


def _layer(pipeline: Any, module: str) -> Any:
    """The pipeline's layer of a canonical name; current transformers leave `text_model.` out or not."""
    component, path = module.split(".", 1)
    root: nn.Module = getattr(pipeline, component)
    try:
        return root.get_submodule(path)
    except AttributeError:
        return root.get_submodule(f"text_model.{path}")


def _tuned(pipeline: Any, adapter: Adapter) -> Changes:
    """The layers that PEFT wrapped, among those that the adapter reaches."""
    layers = {module: _layer(pipeline, module) for module in adapter.factors}
    return {
        module: _by_merging(layer)
        for module, layer in layers.items()
        if getattr(layer, "active_adapters", None)
    }


def _by_merging(layer: Any) -> Callable[[], torch.Tensor]:
    """Let PEFT merge its adapter into a layer's weight, and take the difference."""

    def change() -> torch.Tensor:
        import torch

        if type(layer).__module__.startswith("peft.tuners.lora") and not any(layer.use_dora.values()):
            found: torch.Tensor = layer.get_delta_weight(layer.active_adapters[0])
            return found.detach().float()
        with torch.no_grad():
            before = layer.get_base_layer().weight.detach().clone()
            layer.merge()
            return layer.get_base_layer().weight.detach().float() - before.float()

    return change


def _by_its_word(tuned: Any) -> Callable[[], torch.Tensor]:
    """Take the weight that a LyCORIS module of a norm says it makes."""
    return lambda: (tuned.w_norm.detach()).float()


def _by_impulses(layer: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[], torch.Tensor]:
    """Ask a patched linear or convolution layer for its answer to unit impulses, and the bare weight too."""

    def change() -> torch.Tensor:
        import torch
        from torch.nn import functional

        with torch.no_grad():
            if weight.ndim == 2:
                answer = layer(torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device))
                bare = weight.T if bias is None else weight.T + bias
                return (answer - bare).T.float()
            out, inner, height, width = weight.shape
            # An output in the middle sees the kernel's window whole: output 1 of a picture wide enough.
            start = [s - p for s, p in zip(layer.stride, layer.padding, strict=True)]
            size = (start[0] + height + layer.padding[0] + 1, start[1] + width + layer.padding[1] + 1)
            columns = []
            for channel in range(inner):
                pictures = torch.zeros(height * width, inner, *size, dtype=weight.dtype, device=weight.device)
                for position in range(height * width):
                    row, column = divmod(position, width)
                    pictures[position, channel, start[0] + row, start[1] + column] = 1.0
                bare = functional.conv2d(pictures, weight, bias, layer.stride, layer.padding)
                columns.append((layer(pictures) - bare)[:, :, 1, 1].T)  # (out, kh·kw)
            return torch.stack(columns, dim=1).reshape(out, inner, height, width).float()

    return change
