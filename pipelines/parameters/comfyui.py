"""A ComfyUI graph read as settings, as far as it can be mapped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipelines.parameters.graph import Graph, Node, read_graph
from pipelines.parameters.restored import AdapterHint, Gathered, Restored, stem
from pipelines.prompts import without_choices

_SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", "KSampler (Efficient)",
             "KSamplerAdvanced (Efficient)", "KSampler Adv. (Efficient)")  # fmt: skip
_OUTPUTS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveImageWebsocket", "Image Save")
_BACK = ("images", "image", "pixels", "samples", "latent_image", "latent", "upscale_model_image")
_KNOWN = {
    *_SAMPLERS, *_OUTPUTS, "CLIPTextEncode", "CLIPTextEncodeSDXL", "CLIPTextEncodeSDXLRefiner", "VAEDecode",
    "VAEDecodeTiled", "VAEEncode", "VAEEncodeTiled", "EmptyLatentImage", "LoraLoader", "LoraLoaderModelOnly",
    "Power Lora Loader (rgthree)", "CheckpointLoaderSimple", "CheckpointLoader", "VAELoader", "UNETLoader",
    "CLIPSetLastLayer", "LatentUpscale", "LatentUpscaleBy", "LoadImage", "ImageScale", "ImageScaleBy",
    "RescaleCFG", "KSamplerSelect", "BasicScheduler", "KarrasScheduler", "ExponentialScheduler",
    "RandomNoise", "CFGGuider", "BasicGuider", "ConditioningConcat", "ConditioningZeroOut", "Note",
    "Reroute", "PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveStringMultiline",
    "PrimitiveNode", "StringConcatenate",
}  # fmt: skip
_SIZED = re.compile(r"Empty.*Latent", re.IGNORECASE)
_WORDS = re.compile(r"\b(BREAK|AND)\b")
_BRACKETS = re.compile(r"(?<!\\)([\[\]])")


@dataclass(frozen=True)
class _Pass:
    """One sampler's run, whatever node it is.

    seed … denoise: values, None where not said. model, positive, negative: (node, input) to walk from.
    """

    node: Node
    seed: Any
    steps: Any
    cfg: Any
    sampler: Any
    scheduler: Any
    denoise: Any
    model: tuple[Node, str]
    positive: tuple[Node, str]
    negative: tuple[Node, str]


def parse_comfyui(text: str) -> Restored:
    """Read the `prompt` JSON of a ComfyUI picture.

    Mapped are the usual nodes: samplers (plain, advanced, custom), text encoders, LoRA and checkpoint
    loaders, latents and their upscaling before a second pass, image-to-image. Square brackets, which mean
    nothing in ComfyUI, are escaped, and the words BREAK and AND written small. Other nodes are named in
    `left_over`. Raises: PictureError for text that is no graph.
    """
    graph = read_graph(text)
    gathered = Gathered("comfyui")
    last = _last_sampler(graph)
    if last is not None:
        chain = _chain(graph, last)
        first = next((f for f in reversed(chain) if f.kind in _SAMPLERS), last)
        run = _pass(graph, first)
        _first_pass(graph, gathered, run)
        _latents(graph, gathered, run, chain, last)
        _model(graph, gathered, run)
        _vae(graph, gathered, last)
    else:
        gathered.leave("nodes", "no sampler")
    unknown = sorted({node.kind for node in graph.nodes.values()} - _KNOWN)
    unknown = [kind for kind in unknown if not _SIZED.search(kind)]
    if unknown:
        gathered.leave("nodes", ", ".join(unknown))
    return gathered.done()


def _last_sampler(graph: Graph) -> Node | None:
    """The sampler whose picture is saved: the nearest behind an output, or one that feeds no other."""
    outputs = [node for kind in _OUTPUTS for node in graph.nodes.values() if node.kind == kind]
    for output in outputs:
        for node, _ in graph.back(output, *_BACK):
            if node.kind in _SAMPLERS:
                return node
    samplers = [node for node in graph.nodes.values() if node.kind in _SAMPLERS]
    feeding = {found.number for node in samplers for found in _chain(graph, node)}
    return next((node for node in samplers if node.number not in feeding), next(iter(samplers), None))


def _chain(graph: Graph, sampler: Node) -> list[Node]:
    """The nodes behind a sampler's latents, the nearest first."""
    return [node for node, _ in graph.back(sampler, "latent_image", *_BACK)]


def _pass(graph: Graph, node: Node) -> _Pass:
    """Read a sampler node of any kind."""
    guider, told = node, "positive"
    seed = graph.value(node, "seed" if "seed" in node.inputs else "noise_seed")
    steps, scheduler = graph.value(node, "steps"), graph.value(node, "scheduler")
    sampler, denoise = graph.value(node, "sampler_name"), graph.value(node, "denoise")
    if found := graph.linked(node, "noise"):
        seed = graph.value(found[0], "noise_seed")
    if found := graph.linked(node, "guider"):
        guider = found[0]
        told = "positive" if "positive" in guider.inputs else "conditioning"
    if found := graph.linked(node, "sampler"):
        sampler = graph.value(found[0], "sampler_name")
    if found := graph.linked(node, "sigmas"):
        sigmas = found[0]
        steps, denoise = graph.value(sigmas, "steps"), graph.value(sigmas, "denoise")
        scheduler = graph.value(sigmas, "scheduler")
        if scheduler is None and sigmas.kind.endswith("Scheduler"):
            scheduler = sigmas.kind.removesuffix("Scheduler").lower()
    begin = graph.value(node, "start_at_step")
    if isinstance(begin, int) and isinstance(steps, int) and 0 < begin < steps:
        denoise = 1 - begin / steps
    return _Pass(
        node, seed, steps, graph.value(guider, "cfg"), sampler, scheduler, denoise,
        (guider, "model"), (guider, told), (guider, "negative"),
    )  # fmt: skip


def _first_pass(graph: Graph, gathered: Gathered, run: _Pass) -> None:
    """Set what the first sampler says."""
    for name, value, key in (
        ("num_inference_steps", run.steps, "steps"),
        ("guidance_scale", run.cfg, "cfg"),
        ("seed", run.seed, "seed"),
    ):
        if value is not None:
            gathered.put(name, value, key)
    if isinstance(run.sampler, str):
        schedule = run.scheduler if isinstance(run.scheduler, str) else ""
        gathered.put_sampler(run.sampler.removesuffix("_gpu"), schedule, "sampler_name")
    gathered.put("prompt", _text(graph, gathered, *run.positive, 0), "positive")
    gathered.put("negative_prompt", _text(graph, gathered, *run.negative, 0), "negative")


def _text(graph: Graph, gathered: Gathered, node: Node, name: str, depth: int) -> str:
    """Return the prompt behind a conditioning input, in A1111's words."""
    found = graph.linked(node, name)
    if found is None or depth > 50:
        return ""
    behind, slot = found
    if behind.kind == "ConditioningZeroOut":
        return ""
    for key in ("text", "text_g", "prompt"):
        if key in behind.inputs:
            _clip_skip(graph, gathered, behind)
            text = _worded(graph.value(behind, key))
            other = _worded(graph.value(behind, "text_l"))
            if key == "text_g" and other not in ("", text):
                gathered.leave(f"text_l of {name}", other)
            return text or other
    if behind.kind == "ConditioningConcat":
        both = [
            _text(graph, gathered, behind, key, depth + 1) for key in ("conditioning_to", "conditioning_from")
        ]
        return " BREAK ".join(text for text in both if text)
    names = ("positive", "negative")[slot : slot + 1] + ("conditioning", "conditioning_1", "conditioning_to")
    for key in names:
        if key in behind.inputs:
            return _text(graph, gathered, behind, key, depth + 1)
    return ""


def _worded(text: Any) -> str:
    """Write a ComfyUI prompt so that it means the same here."""
    if not isinstance(text, str):
        return "" if text is None else str(text)
    small = _WORDS.sub(lambda found: found[0].lower(), text)
    return without_choices(_BRACKETS.sub(r"\\\1", small)).strip()


def _clip_skip(graph: Graph, gathered: Gathered, encoder: Node) -> None:
    for node, _ in graph.back(encoder, "clip"):
        if node.kind == "CLIPSetLastLayer":
            layer = graph.value(node, "stop_at_clip_layer")
            if isinstance(layer, int):
                gathered.put("clip_skip", -layer, "stop_at_clip_layer")
            return


def _latents(graph: Graph, gathered: Gathered, run: _Pass, chain: list[Node], last: Node) -> None:
    """Set the size, the picture drawn over, and the second pass."""
    start = _chain(graph, run.node)
    for node in start:
        if node.kind == "LoadImage":
            gathered.leave("image", graph.value(node, "image"))
            if isinstance(run.denoise, int | float):
                gathered.put("strength", run.denoise, "denoise")
            break
        if _SIZED.search(node.kind):
            gathered.put("width", graph.value(node, "width"), "width")
            gathered.put("height", graph.value(node, "height"), "height")
            if isinstance(run.denoise, int | float) and run.denoise < 1:
                gathered.leave("denoise", run.denoise)
            count = graph.value(node, "batch_size")
            if count not in (None, 1):
                gathered.leave("batch_size", count)
            break
    if last is not run.node:
        between = chain[: next(i for i, node in enumerate(chain) if node is run.node)]
        _second_pass(graph, gathered, _pass(graph, last), between)


def _second_pass(graph: Graph, gathered: Gathered, run: _Pass, between: list[Node]) -> None:
    """Set what a sampler behind another one does: over enlarged latents it is a hires pass."""
    scale: float | None = None
    method = ""
    for node in between:
        by, width = graph.value(node, "scale_by"), graph.value(node, "width")
        before = gathered.fields.get("width")
        if isinstance(by, int | float) and not isinstance(by, bool):
            scale = float(by)
        elif "upscale_method" in node.inputs and isinstance(width, int) and width and before:
            scale = width / before
        if "upscale_method" in node.inputs:
            asked = str(graph.value(node, "upscale_method"))
            method = _METHODS.get((node.kind.startswith("Latent"), asked), asked)
    others = [node.kind for node in between if node.kind in _SAMPLERS]
    if scale is None or scale <= 1 or others:
        gathered.leave("second sampler", ", ".join([run.node.kind, *others]))
        return
    gathered.put("hires_scale", scale, "scale_by")
    if run.denoise is not None:
        gathered.put("hires_strength", run.denoise, "second denoise")
    if run.steps is not None:
        gathered.put("hires_steps", run.steps, "second steps")
    if method:
        gathered.put("hires_upscaler", method, "upscale_method")


# Whether latents are enlarged, and ComfyUI's word → the key in UPSCALERS.
_METHODS = {
    (True, "nearest-exact"): "latent_nearest_exact",
    (True, "bilinear"): "latent",
    (True, "bicubic"): "latent_bicubic",
    (False, "nearest-exact"): "nearest",
    (False, "bicubic"): "bicubic",
    (False, "lanczos"): "lanczos",
}


def _model(graph: Graph, gathered: Gathered, run: _Pass) -> None:
    """Take the adapters and the checkpoint from the way that the model goes."""
    adapters: list[AdapterHint] = []
    start = graph.linked(*run.model)
    nodes = (
        [] if start is None else [start[0], *(node for node, _ in graph.back(start[0], "model", "model1"))]
    )
    for node in nodes:
        name = next(
            (n for key in ("ckpt_name", "unet_name") if isinstance(n := graph.value(node, key), str)), None
        )
        if name:
            gathered.base["name"] = stem(name)
            break
        if node.kind == "RescaleCFG":
            gathered.put("guidance_rescale", graph.value(node, "multiplier"), "multiplier")
        adapters += _loras(graph, node)
    gathered.adapters = adapters[::-1]


def _loras(graph: Graph, node: Node) -> list[AdapterHint]:
    """The adapters that a node loads, the last first."""
    name = graph.value(node, "lora_name")
    if isinstance(name, str) and name not in ("", "None"):
        unet = _weight(graph.value(node, "strength_model"))
        text = _weight(graph.value(node, "strength_clip")) if "strength_clip" in node.inputs else 0.0
        return [AdapterHint(stem(name), None, unet, None if text == unet else text)]
    found = []
    for value in node.inputs.values():  # rgthree's: lora_1, lora_2 …
        if isinstance(value, dict) and value.get("on") and isinstance(value.get("lora"), str):
            unet, two = _weight(value.get("strength")), value.get("strengthTwo")
            text = unet if two is None else _weight(two)
            found.append(AdapterHint(stem(value["lora"]), None, unet, None if text == unet else text))
    return found[::-1]


def _weight(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e6 else 1.0


def _vae(graph: Graph, gathered: Gathered, last: Node) -> None:
    """Take the name of a VAE that the saved picture is decoded by."""
    for node in graph.nodes.values():
        behind = graph.linked(node, "samples") if node.kind.startswith("VAEDecode") else None
        if behind and behind[0] is last and (loader := graph.linked(node, "vae")):
            name = graph.value(loader[0], "vae_name")
            if isinstance(name, str):
                gathered.base["vae"] = stem(name)
