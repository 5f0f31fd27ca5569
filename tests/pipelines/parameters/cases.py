# ruff: noqa: E501 (texts stand as they are found)
"""Texts as programs and sites write them, in shape; and what they have to be read as."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A text and its reading. fields: exactly those found. adapters: (name, hash, weight, text weight).

    base: (name, hash, vae). left: exactly what is left over.
    """

    text: str
    fields: dict[str, Any]
    base: tuple[str | None, str | None, str | None] = (None, None, None)
    adapters: tuple[tuple[str, str | None, float, float | None], ...] = ()
    left: dict[str, str] = field(default_factory=dict)


def _fields(prompt: str = "a cat", negative: str = "", **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "negative_prompt": negative, **others}


def _usual(prompt: str = "a cat", negative: str = "", **others: Any) -> dict[str, Any]:
    """What `_LINE` says."""
    usual = {
        "num_inference_steps": 20,
        "sampler": "euler_a",
        "guidance_scale": 7.0,
        "seed": 965400086,
        "width": 512,
        "height": 768,
    }
    return _fields(prompt, negative, **{**usual, **others})


_LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x768"


def _sampler(spelling: str, found: str | None, schedule: str | None = None, *, left: bool = False) -> Case:
    """A case of one sampler's spelling."""
    text = "a cat\nSteps: 20, Sampler: " + spelling
    text += f", Schedule type: {schedule}" if schedule else ""
    fields = _fields(num_inference_steps=20, seed=1, width=64, height=64)
    over = {} if found else {"Sampler": spelling}
    if found:
        fields["sampler"] = found
    if left and schedule:
        over["Schedule type"] = schedule
    return Case(text + ", Seed: 1, Size: 64x64", fields, left=over)


CASES: dict[str, Case] = {
    "usual": Case(f"a cat\nNegative prompt: bad\n{_LINE}", _usual(negative="bad")),
    "no negative": Case(f"a cat\n{_LINE}", _usual()),
    "no prompt": Case(f"Negative prompt: bad\n{_LINE}", _usual("", "bad")),
    "settings only": Case(_LINE, _usual("")),
    "prompt only": Case("a cat, (best:1.2)", _fields("a cat, (best:1.2)")),
    "no settings": Case("a cat\nNegative prompt: bad, worse", _fields(negative="bad, worse")),
    "nothing": Case("", _fields("")),
    "several lines": Case(
        f"a cat,\n\non a mat\nNegative prompt: bad,\n  worse\nworst\n{_LINE}",
        _usual("a cat,\n\non a mat", "bad,\nworse\nworst"),
    ),
    "carriage returns": Case(
        f"a cat\r\non a mat\r\nNegative prompt: bad\r\n{_LINE}\r\n", _usual("a cat\non a mat", "bad")
    ),
    "byte order mark and zeros": Case(f"\ufeffa cat\n{_LINE}\0\0", _usual()),
    "unicode": Case(
        f"一只猫, café, 🐈\nNegative prompt: плохо\n{_LINE}", _usual("一只猫, café, 🐈", "плохо")
    ),
    "negative prompt within the prompt": Case(
        f'a sign "Negative prompt: no", red\nNegative prompt: bad\n{_LINE}',
        _usual('a sign "Negative prompt: no", red', "bad"),
    ),
    "steps within the prompt": Case(
        f"a stair, Steps: 12 (wood), Size: large\n{_LINE}", _usual("a stair, Steps: 12 (wood), Size: large")
    ),
    "a line of the prompt like settings": Case(
        f"Steps: 12 of wood\na cat\n{_LINE}", _usual("Steps: 12 of wood\na cat")
    ),
    "a line of the prompt like settings, and none": Case(
        "a stair\nSteps: 12 of wood, red", _fields("a stair\nSteps: 12 of wood, red")
    ),
    "everything A1111 1.9 writes": Case(
        "a cat <lora:more_details:0.7> <lora:ink:1>\nNegative prompt: EasyNegative\n"
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4294967295, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE hash: c6a580b13a, "
        "VAE: vae-ft-mse-840000-ema-pruned.ckpt, Denoising strength: 0.45, Clip skip: 2, Hires upscale: 2, "
        'Hires steps: 15, Hires upscaler: Latent, Lora hashes: "more_details: 3b8aa1d351ef, ink: 0123456789ab", '
        'TI hashes: "EasyNegative: c74b4e810b03", Version: v1.9.4',
        _fields(
            "a cat",
            "EasyNegative",
            num_inference_steps=30,
            sampler="dpmpp_2m_karras",
            guidance_scale=6.5,
            seed=4294967295,
            width=512,
            height=768,
            clip_skip=2,
            hires_scale=2.0,
            hires_steps=15,
            hires_strength=0.45,
            hires_upscaler="latent",
        ),
        ("v1-5-pruned-emaonly", "6ce0161689", "vae-ft-mse-840000-ema-pruned"),
        (("more_details", "3b8aa1d351ef", 0.7, None), ("ink", "0123456789ab", 1.0, None)),
        {"VAE hash": "c6a580b13a", "TI hashes": "EasyNegative: c74b4e810b03", "Version": "v1.9.4"},
    ),
    "image-to-image with a mask": Case(
        f"a cat\n{_LINE}, Denoising strength: 0.6, Conditional mask weight: 1.0, Mask blur: 8, "
        "Inpaint area: Only masked, Masked area padding: 48, Mask mode: Inpaint not masked, Masked content: fill",
        _usual(strength=0.6, mask_blur=8.0, mask_padding=48, mask_invert=True),
        left={"Conditional mask weight": "1.0", "Masked content": "fill"},
    ),
    "whole picture painted in": Case(
        f"a cat\n{_LINE}, Denoising strength: 1, Inpaint area: Whole picture, Masked area padding: 32",
        _usual(strength=1.0),
    ),
    "an upscaler that isn't here": Case(
        f"a cat\n{_LINE}, Denoising strength: 0.4, Hires upscale: 1.5, Hires upscaler: 4x-UltraSharp, Hires steps: 0",
        _usual(hires_scale=1.5, hires_strength=0.4),
        left={"Hires upscaler": "4x-UltraSharp"},
    ),
    "hires by size": Case(
        f"a cat\n{_LINE}, Hires resize: 1024x1536, Denoising strength: 0.5",
        _usual(hires_scale=2.0, hires_strength=0.5),
    ),
    "hires of 2022, by the first size": Case(
        "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 1024x1536, Model hash: 45dee52b, "
        "Denoising strength: 0.7, First pass size: 512x768",
        _usual(hires_scale=2.0, hires_strength=0.7),
        (None, "45dee52b", None),
    ),
    "quoted values with commas, colons and quotes": Case(
        f'a cat\n{_LINE}, ADetailer prompt: "face, eyes: (blue:1.2), \\"wow\\"", ADetailer model: face_yolov8n.pt, '
        'Model: "my, model: v2", Version: v1.7.0',
        _usual(),
        ("my, model: v2", None, None),
        left={
            "ADetailer prompt": 'face, eyes: (blue:1.2), "wow"',
            "ADetailer model": "face_yolov8n.pt",
            "Version": "v1.7.0",
        },
    ),
    "ControlNet": Case(
        f'a cat\n{_LINE}, ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1, '
        'Resize Mode: Crop and Resize, Guidance Start: 0, Guidance End: 1", RNG: CPU',
        _usual(),
        left={
            "ControlNet 0": "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1, "
            "Resize Mode: Crop and Resize, Guidance Start: 0, Guidance End: 1",
        },
    ),
    "templates of dynamic prompts": Case(
        f"a red cat\nNegative prompt: bad\n{_LINE}, Version: v1.6.0\nTemplate: a {{red|blue}} cat,\nlarge\n"
        "Negative Template: bad",
        _usual("a red cat", "bad"),
        left={"Version": "v1.6.0", "Template": "a {red|blue} cat,\nlarge", "Negative Template": "bad"},
    ),
    "Forge": Case(
        "a cat\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
        "Seed: 348050396, Size: 896x1152, Model hash: 06f96f89f6, Model: flux_dev, "
        "Version: f2.0.1v1.10.1-previous-544-g86d00326, Module 1: ae",
        _fields(
            num_inference_steps=20,
            sampler="euler",
            guidance_scale=1.0,
            seed=348050396,
            width=896,
            height=1152,
        ),
        ("flux_dev", "06f96f89f6", None),
        left={
            "Schedule type": "Simple",
            "Distilled CFG Scale": "3.5",
            "Module 1": "ae",
            "Version": "f2.0.1v1.10.1-previous-544-g86d00326",
        },
    ),
    "SD.Next": Case(
        "a cat, <lora:outline_xl:3.0>, art\nNegative prompt: low quality\nSteps: 20, Size: 1312x1408, "
        "Sampler: DPM++ 2M SDE, Seed: 1561296656, CFG scale: 6, CFG rescale: 0.7, Model: hassakuXL_v21fix, "
        "Model hash: 847403d47a, App: SD.Next, Version: 8b73cb6, Pipeline: StableDiffusionXLPipeline, "
        "Operations: txt2img, LoRA networks: outline_xl",
        _fields(
            "a cat, , art",
            "low quality",
            num_inference_steps=20,
            width=1312,
            height=1408,
            seed=1561296656,
            sampler="dpmpp_2m_sde",
            guidance_scale=6.0,
            guidance_rescale=0.7,
        ),
        ("hassakuXL_v21fix", "847403d47a", None),
        (("outline_xl", None, 3.0, None),),
        {
            "App": "SD.Next",
            "Version": "8b73cb6",
            "Pipeline": "StableDiffusionXLPipeline",
            "Operations": "txt2img",
            "LoRA networks": "outline_xl",
        },
    ),
    "Fooocus": Case(
        "a cat\nNegative prompt: bad\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 123, Size: 1152x896, "
        'CFG scale: 4, Sharpness: 2, ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL_v8, '
        "Model hash: aeb7e9e689, Performance: Speed, Scheduler: karras, VAE: Default (model), "
        'Styles: "[\'Fooocus V2\']", Lora hashes: "offset_1.0: 4852686128ff", Lora weights: "offset_1.0: 0.1", '
        "Version: Fooocus v2.5.5",
        _fields(
            negative="bad",
            num_inference_steps=30,
            sampler="dpmpp_2m_sde_karras",
            seed=123,
            width=1152,
            height=896,
            guidance_scale=4.0,
        ),
        ("juggernautXL_v8", "aeb7e9e689", None),
        (("offset_1.0", "4852686128ff", 0.1, None),),
        {
            "Sharpness": "2",
            "ADM Guidance": "(1.5, 0.8, 0.3)",
            "Performance": "Speed",
            "Styles": "['Fooocus V2']",
            "Version": "Fooocus v2.5.5",
        },
    ),
    "Civitai's generator": Case(
        "a cat\nNegative prompt: bad\nSteps: 22, Sampler: DPM++ 2M Karras, CFG scale: 3.8, Seed: 894409639, "
        "Size: 832x1216, Clip skip: 2, Created Date: 2024-09-23T06:17:42.9952795Z, Civitai resources: "
        '[{"type":"checkpoint","modelVersionId":128078,"modelName":"SD XL","modelVersionName":"v1.0 VAE fix"},'
        '{"type":"lora","weight":0.85,"modelVersionId":210432,"modelName":"Double Exposure, [x]"},'
        '{"type":"embed","weight":1,"modelName":"negativeXL"}], Civitai metadata: {"remixOfId":1}',
        _fields(
            negative="bad",
            num_inference_steps=22,
            sampler="dpmpp_2m_karras",
            guidance_scale=3.8,
            seed=894409639,
            width=832,
            height=1216,
            clip_skip=2,
        ),
        ("SD XL", None, None),
        (("Double Exposure, [x]", None, 0.85, None),),
        {
            "Created Date": "2024-09-23T06:17:42.9952795Z",
            "Civitai metadata": '{"remixOfId":1}',
            "Civitai resources": '[{"type":"checkpoint","modelVersionId":128078,"modelName":"SD XL",'
            '"modelVersionName":"v1.0 VAE fix"},{"type":"lora","weight":0.85,"modelVersionId":210432,'
            '"modelName":"Double Exposure, [x]"},{"type":"embed","weight":1,"modelName":"negativeXL"}]',
        },
    ),
    "Civitai, an empty negative and all on one line": Case(
        "a cat, FOG Negative prompt: Steps: 23, Sampler: Undefined, CFG scale: 3.5, Seed: 1760020955, "
        "Size: 832x1216, Clip skip: 2, Created Date: 2025-11-28T09:18:43.5269343Z",
        _fields(
            "a cat, FOG",
            num_inference_steps=23,
            guidance_scale=3.5,
            seed=1760020955,
            width=832,
            height=1216,
            clip_skip=2,
        ),
        left={"Sampler": "Undefined", "Created Date": "2025-11-28T09:18:43.5269343Z"},
    ),
    "a site that loses the line breaks": Case(
        f"a cat, red Negative prompt: bad, worse {_LINE}", _usual("a cat, red", "bad, worse")
    ),
    "one setting a line": Case(
        "a cat\nNegative prompt: bad\nSteps: 20\nSampler: Euler a\nCFG scale: 7\nSeed: 965400086\nSize: 512x768\n"
        "Model: x.safetensors",
        _usual(negative="bad"),
        ("x", None, None),
    ),
    "settings in another order": Case(
        "a cat\nSampler: Euler a, Steps: 20, Seed: 965400086, CFG scale: 7, Size: 512x768", _usual()
    ),
    "ComfyUI's image saver": Case(
        "a cat\nNegative prompt: bad\nSteps: 20, Sampler: euler_ancestral, CFG scale: 7.0, Seed: 965400086, "
        'Size: 512x768, Model hash: 0123456789, Model: sd/x, Hashes: {"model":"0123456789","lora:ink":"abcdef"}, '
        "Version: ComfyUI",
        _usual(negative="bad"),
        ("x", "0123456789", None),
        left={"Hashes": '{"model":"0123456789","lora:ink":"abcdef"}', "Version": "ComfyUI"},
    ),
    "small letters and spaces": Case(
        "a cat\nsteps: 20 ,sampler:Euler a,  cfg Scale : 7,seed: 965400086,size: 512 X 768", _usual()
    ),
    "width and height apart": Case(
        "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7.00, Seed: 965400086, Width: 512, Height: 768",
        _usual(),
    ),
    "a multiplication sign": Case(f"a cat\n{_LINE.replace('512x768', '512×768')}", _usual()),
    "numbers that are none, or out of bounds": Case(
        "a cat\nSteps: 0, Sampler: Euler a, CFG scale: nan, Seed: -1, Size: 99999x7, Clip skip: two, Eta: 0.5",
        _fields(sampler="euler_a"),
        left={
            "Steps": "0",
            "CFG scale": "nan",
            "Seed": "-1",
            "Size": "99999x7",
            "Clip skip": "two",
            "Eta": "0.5",
        },
    ),
    "eta of DDIM": Case(
        f"a cat\n{_LINE.replace('Euler a', 'DDIM')}, Eta DDIM: 0.67", _usual(sampler="ddim", eta=0.67)
    ),
    "eta of DDIM in old texts": Case(
        f"a cat\n{_LINE.replace('Euler a', 'DDIM')}, Eta: 1", _usual(sampler="ddim", eta=1.0)
    ),
    "noise of a card": Case(f"a cat\n{_LINE}, RNG: NV", _usual(), left={"RNG": "NV"}),
    "a seed beyond what fits": Case(
        f"a cat\n{_LINE.replace('965400086', '18446744073709551615')}",
        {key: value for key, value in _usual().items() if key != "seed"},
        left={"Seed": "18446744073709551615"},
    ),
    "adapters of every spelling": Case(
        f"<lora:a>, a <cat> <lyco:b:-0.5> <lora:c:0.5:1> <lora:d:te=0.2:unet=0.4>\n{_LINE}",
        _usual(", a <cat>"),
        adapters=(
            ("a", None, 1.0, None),
            ("b", None, -0.5, None),
            ("c", None, 1.0, 0.5),
            ("d", None, 0.4, 0.2),
        ),
    ),
    "an adapter's tag that can't be read": Case(
        f"a cat <lora:a:0.8:lbw=OUTALL> <lora:b:x>\n{_LINE}",
        _usual(),
        left={
            "<lora:a:0.8:lbw=OUTALL>": "a tag that can't be read",
            "<lora:b:x>": "a tag that can't be read",
        },
    ),
    "checksums without a tag": Case(
        f'a cat\n{_LINE}, Lora hashes: "ink: 0123456789ab"',
        _usual(),
        left={"Lora hashes": "ink: 0123456789ab"},
    ),
    "a value without quotes that holds commas": Case(
        f"a cat\n{_LINE}, Model: one, two, Wildcard prompt: x, y, Version: v1",
        _usual(),
        ("one, two", None, None),
        left={"Wildcard prompt": "x, y", "Version": "v1"},
    ),
    "an unclosed quote": Case(
        f'a cat\n{_LINE}, Note: "half, Version: v1', _usual(), left={"Note": '"half', "Version": "v1"}
    ),
    "braces, which A1111 takes for text": Case(
        f"a {{red|blue}} {{{{cat}}}}\nNegative prompt: {{x}}\n{_LINE}",
        _usual("a \\{red\\|blue\\} \\{\\{cat\\}\\}", "{x}"),
    ),
    "samplers: a k_ name of 2022": _sampler("k_euler_a", "euler_a"),
    "samplers: an alias": _sampler("k_dpmpp_2m_ka", "dpmpp_2m_karras"),
    "samplers: InvokeAI's": _sampler("dpmpp_2m_k", "dpmpp_2m_karras"),
    "samplers: joined": _sampler("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"),
    "samplers: apart": _sampler("DPM++ SDE", "dpmpp_sde_karras", "Karras"),
    "samplers: said twice": _sampler("DPM++ 2M Karras", "dpmpp_2m_karras", "Karras"),
    "samplers: automatic is Karras": _sampler("DPM++ 2M", "dpmpp_2m_karras", "Automatic"),
    "samplers: automatic is its own": _sampler("Euler a", "euler_a", "Automatic"),
    "samplers: uniform": _sampler("DPM++ 2M", "dpmpp_2m", "Uniform"),
    "samplers: a schedule that isn't here": _sampler("Euler", "euler", "Align Your Steps", left=True),
    "samplers: unknown": _sampler("Restart", None),
    "samplers: diffusers' class": _sampler("EulerDiscreteScheduler", "euler"),
}
