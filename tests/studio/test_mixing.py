"""From the Mix tab to a job: what is refused, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StudioError
from studio import mixing
from studio.context import Context


def request(**changes: Any) -> mixing.Request:
    return mixing.Request(**{"prompt": "a cat", "weights": {}, **changes})


def test_a_request_becomes_a_job(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "a.safetensors"))
    job = mixing.start(context, request(prompt=" a\n cat ", seed=3, weights={entry.id: 0.5}, compare=True))
    assert job.kind == "generate"
    assert job.config["generation"]["prompt"] == "a cat"
    assert (job.config["generation"]["seed"], job.config["weights"]) == (3, {entry.id: 0.5})
    assert job.config["compare"] is True


def test_an_adapter_at_zero_is_left_out(context: Context) -> None:
    assert mixing.start(context, request(weights={"gone": 0.0})).config["weights"] == {}


def test_without_a_seed_one_is_picked() -> None:
    seeds = {mixing.generation_config(request(seed=None)).seed for _ in range(4)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"seed": -1}, "Seed is -1"),
        ({"num_images": 0}, "Pictures is 0"),
        ({"num_inference_steps": 5000}, "Steps is 5000"),
        ({"guidance_scale": float("nan")}, "Guidance"),
        ({"sampler": "magic"}, "Sampler"),
        ({"weights": {"gone": 1.0}}, "gone"),
        ({"weights": {str(number): 1.0 for number in range(17)}}, "at most 16"),
    ],
)
def test_a_wrong_request_is_one_line_and_queues_nothing(
    context: Context, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudioError) as refused:
        mixing.start(context, request(**change))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert context.jobs.find() == []


@pytest.mark.parametrize("weight", [-1.01, 2.01, float("nan"), float("inf")])
def test_a_weight_out_of_range_names_the_adapter(
    context: Context, make_adapter: Callable[..., Path], tmp_path: Path, weight: float
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "a.safetensors"), name="Disc")
    with pytest.raises(StudioError, match="Disc"):
        mixing.start(context, request(weights={entry.id: weight}))
    assert context.jobs.find() == []


def test_adapters_named_in_the_prompt_add_to_the_sliders(
    context: Context, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "zib.safetensors"))
    tagged = request(prompt=f"a cat <lora:{entry.name}:0.5>", weights={entry.id: 0.25})
    job = mixing.start(context, tagged)
    assert job.config["generation"]["prompt"] == "a cat"
    assert job.config["weights"] == {entry.id: 0.75}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat <lora:dics:1>", "no adapter 'dics' in the library; did you mean"),
        ("a cat <lora:{name}:0.5:1>", "has two weights"),
        ("a cat <lora:{name}:5>", "is 5, expected -1 to 2"),
    ],
)
def test_a_tag_that_cannot_be_is_one_line(
    context: Context, make_adapter: Callable[..., Path], tmp_path: Path, prompt: str, said: str
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "zib.safetensors"))
    with pytest.raises(StudioError, match=said):
        mixing.start(context, request(prompt=prompt.replace("{name}", entry.name)))
