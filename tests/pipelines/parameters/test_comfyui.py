"""ComfyUI's graphs, as far as they can be mapped."""

from __future__ import annotations

import json
import time
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import PictureError
from pipelines.generation import GenerationConfig
from pipelines.parameters import Restored, parse_comfyui

Nodes = dict[str, Any]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def usual(**changed: Any) -> Nodes:
    """The graph that ComfyUI starts with; `changed`: nodes by number."""
    return {
        "3": node(
            "KSampler",
            seed=156680208700286,
            steps=20,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            denoise=1,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="sd15/v1-5-pruned.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a (cat:1.2)", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="bad", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
        **{key.strip("_"): value for key, value in changed.items()},
    }


def read(nodes: Nodes) -> Restored:
    found = parse_comfyui(json.dumps(nodes))
    GenerationConfig.model_validate({"prompt": "", **found.fields})
    return found


USUAL: dict[str, Any] = {
    "prompt": "a (cat:1.2)",
    "negative_prompt": "bad",
    "seed": 156680208700286,
    "num_inference_steps": 20,
    "guidance_scale": 8.0,
    "sampler": "euler",
    "width": 512,
    "height": 768,
}


def sampler(node_: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return {**node_, "inputs": {**node_["inputs"], **inputs}}


def test_the_usual_graph() -> None:
    found = read(usual())
    assert found.fields == USUAL
    assert astuple(found.base) == ("v1-5-pruned", None, None)
    assert found.adapters == ()
    assert found.left_over == {}
    assert found.source == "comfyui"


def test_adapters_clip_skip_and_a_vae() -> None:
    nodes = usual(
        _10=node(
            "LoraLoader",
            lora_name="a/ink.safetensors",
            strength_model=0.8,
            strength_clip=0.5,
            model=["4", 0],
            clip=["4", 1],
        ),
        _11=node(
            "LoraLoader",
            lora_name="fox.safetensors",
            strength_model=1,
            strength_clip=1,
            model=["10", 0],
            clip=["10", 1],
        ),
        _12=node("LoraLoaderModelOnly", lora_name="lcm.safetensors", strength_model=-0.5, model=["11", 0]),
        _13=node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["11", 1]),
        _14=node("VAELoader", vae_name="mse.safetensors"),
        _15=node(
            "Power Lora Loader (rgthree)",
            lora_1={"on": True, "lora": "x.safetensors", "strength": 0.4},
            lora_2={"on": False, "lora": "off.safetensors", "strength": 1},
            model=["12", 0],
        ),
        _16=node("RescaleCFG", multiplier=0.7, model=["15", 0]),
        _6=node("CLIPTextEncode", text="a (cat:1.2)", clip=["13", 0]),
        _8=node("VAEDecode", samples=["3", 0], vae=["14", 0]),
    )
    nodes["3"] = sampler(nodes["3"], model=["16", 0])
    found = read(nodes)
    assert found.fields == {**USUAL, "clip_skip": 2, "guidance_rescale": 0.7}
    assert [astuple(hint) for hint in found.adapters] == [
        ("ink", None, 0.8, 0.5),
        ("fox", None, 1.0, None),
        ("lcm", None, -0.5, 0.0),
        ("x", None, 0.4, None),
    ]
    assert astuple(found.base) == ("v1-5-pruned", None, "mse")
    assert found.left_over == {}


def second(**inputs: Any) -> dict[str, Any]:
    return node(
        "KSampler",
        **{
            "seed": 1,
            "steps": 12,
            "cfg": 7,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 0.5,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            **inputs,
        },
    )


HIRES: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "latents by a factor": (
        {"20": node("LatentUpscaleBy", upscale_method="nearest-exact", scale_by=1.5, samples=["3", 0])},
        {"hires_scale": 1.5, "hires_upscaler": "latent_nearest_exact"},
    ),
    "latents to a size": (
        {
            "20": node(
                "LatentUpscale",
                upscale_method="bicubic",
                width=1024,
                height=1536,
                crop="disabled",
                samples=["3", 0],
            )
        },
        {"hires_scale": 2.0, "hires_upscaler": "latent_bicubic"},
    ),
    "pixels": (
        {
            "18": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
            "19": node("ImageScaleBy", upscale_method="lanczos", scale_by=2.0, image=["18", 0]),
            "20": node("VAEEncode", pixels=["19", 0], vae=["4", 2]),
        },
        {"hires_scale": 2.0, "hires_upscaler": "lanczos"},
    ),
}


@pytest.mark.parametrize("name", HIRES)
def test_a_second_pass_over_something_larger_is_hires(name: str) -> None:
    nodes, wanted = HIRES[name]
    found = read(
        usual(
            **nodes, _21=second(latent_image=["20", 0]), _8=node("VAEDecode", samples=["21", 0], vae=["4", 2])
        )
    )
    assert found.fields == {**USUAL, "hires_steps": 12, "hires_strength": 0.5, **wanted}


def test_a_second_sampler_over_the_same_size_is_said() -> None:
    found = read(
        usual(_21=second(latent_image=["3", 0]), _8=node("VAEDecode", samples=["21", 0], vae=["4", 2]))
    )
    assert found.fields == USUAL
    assert found.left_over == {"second sampler": "KSampler"}


def test_image_to_image() -> None:
    nodes = usual(_5=node("VAEEncode", pixels=["30", 0], vae=["4", 2]), _30=node("LoadImage", image="in.png"))
    nodes["3"] = sampler(nodes["3"], denoise=0.6)
    found = read(nodes)
    assert found.fields == {
        **{k: v for k, v in USUAL.items() if k not in ("width", "height")},
        "strength": 0.6,
    }
    assert found.left_over == {"image": "in.png"}
    nodes["3"] = sampler(nodes["3"], denoise=1)  # as inpainting graphs have it; the default here is less
    assert read(nodes).fields["strength"] == 1.0


def test_an_advanced_sampler() -> None:
    nodes = usual(
        _3=node(
            "KSamplerAdvanced",
            add_noise="enable",
            noise_seed=7,
            steps=25,
            cfg=6.5,
            sampler_name="dpmpp_2m_sde_gpu",
            scheduler="karras",
            start_at_step=0,
            end_at_step=20,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        _21=node(
            "KSamplerAdvanced",
            add_noise="disable",
            noise_seed=0,
            steps=25,
            cfg=6.5,
            sampler_name="euler",
            scheduler="normal",
            start_at_step=20,
            end_at_step=10000,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["3", 0],
        ),
        _8=node("VAEDecode", samples=["21", 0], vae=["4", 2]),
    )
    found = read(nodes)
    assert found.fields == {
        **USUAL,
        "seed": 7,
        "num_inference_steps": 25,
        "guidance_scale": 6.5,
        "sampler": "dpmpp_2m_sde_karras",
    }
    assert found.left_over == {"second sampler": "KSamplerAdvanced"}


def test_a_custom_sampler() -> None:
    nodes = usual(
        _3=node(
            "SamplerCustomAdvanced",
            noise=["40", 0],
            guider=["41", 0],
            sampler=["42", 0],
            sigmas=["43", 0],
            latent_image=["5", 0],
        ),
        _40=node("RandomNoise", noise_seed=99),
        _41=node("CFGGuider", cfg=4.5, model=["4", 0], positive=["6", 0], negative=["7", 0]),
        _42=node("KSamplerSelect", sampler_name="dpmpp_2m"),
        _43=node("BasicScheduler", scheduler="karras", steps=18, denoise=1.0, model=["4", 0]),
    )
    assert read(nodes).fields == {
        **USUAL,
        "seed": 99,
        "guidance_scale": 4.5,
        "sampler": "dpmpp_2m_karras",
        "num_inference_steps": 18,
    }


def test_texts_and_numbers_through_other_nodes() -> None:
    nodes = usual(
        _6=node(
            "CLIPTextEncodeSDXL", text_g=["50", 0], text_l="other", width=1024, height=1024, clip=["4", 1]
        ),
        _50=node("StringConcatenate", string_a=["51", 0], string_b="a cat", delimiter=", "),
        _51=node("PrimitiveStringMultiline", value="best"),
        _7=node("ConditioningConcat", conditioning_to=["53", 0], conditioning_from=["54", 0]),
        _53=node("CLIPTextEncode", text="bad", clip=["4", 1]),
        _54=node("CLIPTextEncode", text="worse", clip=["4", 1]),
        _55=node("PrimitiveInt", value=31),
        _56=node("Seed (rgthree)", seed=1234),
        _57=node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1),
    )
    nodes["3"] = sampler(nodes["3"], steps=["55", 0], seed=["56", 0], positive=["57", 0], negative=["57", 1])
    found = read(nodes)
    assert found.fields == {
        **USUAL,
        "prompt": "best, a cat",
        "negative_prompt": "bad BREAK worse",
        "num_inference_steps": 31,
        "seed": 1234,
    }
    assert found.left_over == {
        "text_l of positive": "other",
        "nodes": "ControlNetApplyAdvanced, Seed (rgthree)",
    }


def test_words_mean_what_they_meant() -> None:
    """Square brackets, BREAK and AND are nothing special to ComfyUI."""
    found = read(usual(_6=node("CLIPTextEncode", text="a [cat] BREAK \\[x\\] AND (dog:1.1)", clip=["4", 1])))
    assert found.fields["prompt"] == "a \\[cat\\] break \\[x\\] and (dog:1.1)"


def test_an_empty_negative() -> None:
    nodes = usual(_7=node("ConditioningZeroOut", conditioning=["6", 0]))
    assert read(nodes).fields["negative_prompt"] == ""


def test_what_cannot_be_used_is_left_over() -> None:
    nodes = usual(_5=node("EmptyLatentImage", width=99999, height=768, batch_size=4))
    odd = {"seed": 2**64 - 1, "sampler_name": "odd", "scheduler": "beta57", "steps": 0, "denoise": 0.5}
    nodes["3"] = sampler(nodes["3"], **odd)
    found = read(nodes)
    assert found.left_over == {
        "steps": "0",
        "seed": str(2**64 - 1),
        "sampler_name": "odd",
        "Schedule type": "beta57",
        "width": "99999",
        "batch_size": "4",
        "denoise": "0.5",
    }
    assert found.fields == {k: USUAL[k] for k in ("prompt", "negative_prompt", "guidance_scale", "height")}


def test_an_unsaved_graph_and_one_without_a_sampler() -> None:
    nodes = usual()
    del nodes["9"], nodes["8"]
    assert read(nodes).fields == USUAL
    del nodes["3"]
    assert read(nodes).left_over == {"nodes": "no sampler"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "{",
        '{"1": 2}',
        "[" * 100_000,
        '{"a": {"class_type": 1}}',
        '{"1": {"inputs": {}}}',
        "9" * 5000,
    ],
)
def test_what_is_no_graph_is_one_line(text: str) -> None:
    with pytest.raises(PictureError) as caught:
        parse_comfyui(text)
    assert "\n" not in str(caught.value)


def test_a_graph_that_is_too_large_is_refused() -> None:
    with pytest.raises(PictureError, match="5000"):
        parse_comfyui(json.dumps({str(index): node("A") for index in range(5001)}))
    with pytest.raises(PictureError, match="1000000"):
        parse_comfyui(" " * 1_000_001)


def test_cycles_and_diamonds_end() -> None:
    began = time.process_time()
    nodes = usual()
    for key in ("4", "5", "6", "7"):
        nodes[key] = node(
            "Reroute", model=["4", 0], samples=["5", 0], conditioning=["6", 0], text=["7", 0], clip=["6", 0]
        )
    read(nodes)
    nodes = usual(
        **{
            str(index): node(
                "ConditioningConcat",
                conditioning_to=[str(index + 1), 0],
                conditioning_from=[str(index + 1), 0],
            )
            for index in range(100, 180)
        }
    )
    nodes["3"] = sampler(nodes["3"], positive=["100", 0])
    read(nodes)
    nodes = usual(
        **{
            str(index): node("StringConcatenate", string_a=[str(index + 1), 0], string_b=[str(index + 1), 0])
            for index in range(100, 180)
        },
        _180=node("S", value="x" * 100),
    )
    nodes["6"] = node("CLIPTextEncode", text=["100", 0])
    read(nodes)
    nodes = {str(index): node("KSampler", latent_image=[str((index + 1) % 3000), 0]) for index in range(3000)}
    read(nodes)
    assert time.process_time() - began < 10


def test_a_cycle_leaves_the_rest_readable() -> None:
    nodes = usual(_5=node("Reroute", samples=["30", 0]), _30=node("Reroute", samples=["5", 0]))
    found = read(nodes)
    assert found.fields == {key: value for key, value in USUAL.items() if key not in ("width", "height")}
    assert found.base.name == "v1-5-pruned"


_value = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.sampled_from(["3", "4", "5", "6", "7", "8", 0, 1, None]), max_size=3)
)


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from("3456789"),
            st.text(max_size=3)
            | st.sampled_from(
                [
                    "model",
                    "positive",
                    "seed",
                    "steps",
                    "latent_image",
                    "text",
                    "samples",
                    "images",
                    "width",
                    "lora_name",
                ]
            ),
        ),
        _value,
        max_size=12,
    )
)
def test_any_inputs_are_read_without_an_error(changes: dict[tuple[str, str], Any]) -> None:
    nodes = usual()
    for (number, name), value in changes.items():
        nodes[number]["inputs"][name] = value
    read(nodes)
