"""From a request to a job: what is refused, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StudioError
from studio import mixing
from studio.context import Context
from studio.library import Entry


def request(**changes: Any) -> mixing.Request:
    """A request out of JSON; of the settings those that differ."""
    fields = {name: changes.pop(name) for name in list(changes) if name in mixing.Request.model_fields}
    return mixing.read_request({"generation": {"prompt": "a cat", **changes}, **fields})


@pytest.fixture
def entry(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> Entry:
    """An adapter in the library."""
    return context.library.add(make_adapter(tmp_path / "zib.safetensors"), name="Disc")[0]


def test_a_request_becomes_a_job(context: Context, entry: Entry) -> None:
    part = {
        "id": entry.id,
        "weight": 0.5,
        "text": 1.0,
        "blocks": {"mid_block": 0.5},
        "begin": 0.25,
        "end": 0.5,
    }
    asked = request(prompt=" a\n cat ", seed=3, mix=[part], compare=True)
    job = mixing.start(context, asked)
    assert job.kind == "generate"
    assert job.config["base"] == context.base
    again = mixing.request_of(job)
    assert (again.generation.prompt, again.generation.seed, again.compare) == ("a cat", 3, True)
    assert again.mix == asked.mix
    use = again.mix[0].use(entry.name, entry.sha256)
    weights = use.weights()
    assert (weights.pair, weights.blocks, weights.begin, weights.end) == (
        (0.5, 1.0), {"mid_block": 0.5}, 0.25, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("part", [{"weight": 0}, {"on": False}, {"weight": 0, "text": 0}])
def test_an_adapter_that_changes_nothing_is_left_out(context: Context, part: dict[str, Any]) -> None:
    asked = request(mix=[{"id": "gone", **part}])
    assert mixing.request_of(mixing.start(context, asked)).mix == ()


def test_an_adapter_on_the_text_alone_is_kept(context: Context, entry: Entry) -> None:
    asked = request(mix=[{"id": entry.id, "weight": 0, "text": 1}])
    assert mixing.checked(context, asked).mix == asked.mix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"seed": -1}, "Seed is -1"),
        ({"num_images": 0}, "Pictures is 0"),
        ({"num_inference_steps": 5000}, "Steps is 5000"),
        ({"guidance_scale": float("nan")}, "Guidance"),
        ({"sampler": "dim"}, "unknown sampler 'dim'; did you mean 'ddim'"),
        ({"stepps": 3}, "unknown setting 'stepps'"),
        ({"mix": [{"id": "gone"}]}, "gone"),
        ({"mix": [{"id": "../gone"}]}, "Adapter is '../gone'"),
        ({"mix": [{"id": str(number)} for number in range(17)]}, "at most 16"),
        ({"mix": [{"id": "a", "weight": 3.01}]}, "Weight is 3.01"),
        ({"mix": [{"id": "a", "weight": float("nan")}]}, "Weight is nan"),
        ({"mix": [{"id": "a", "text": -2.01}]}, "Text weight is -2.01"),
        ({"mix": [{"id": "a", "begin": 1.5}]}, "Begin is 1.5"),
        ({"image": "../etc/passwd"}, "Picture is '../etc/passwd'"),
        ({"mask": "picture/" + "0" * 64}, "no picture that it marks"),
        ({"image": {"sha256": "0" * 64}}, "Picture is {"),
        ({"controls": [{"ref": "/etc"}]}, "pigment generate"),
        ({"axes": ["wait=1,2"]}, "unknown axis 'wait'; did you mean"),
        ({"axes": ["weight=0,1"]}, "needs an adapter"),
        ({"axes": ["strength=0.2,0.4"]}, "needs a picture"),
        ({"axes": ["seed=1-30", "steps=1-30"]}, "900 pictures"),
        ({"axes": ["base=/etc"]}, "no base '/etc' in the list"),
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


def test_an_adapter_twice_is_refused(context: Context, entry: Entry) -> None:
    with pytest.raises(StudioError, match="twice"):
        mixing.start(context, request(mix=[{"id": entry.id}, {"id": entry.id, "weight": 2}]))


def test_a_grid_may_name_an_adapter_by_id_and_move_one_from_zero(context: Context, entry: Entry) -> None:
    asked = request(mix=[{"id": entry.id, "weight": 0}], axes=[f"weight:{entry.id}=0,1", "seed=1-2"])
    found = mixing.request_of(mixing.start(context, asked))
    assert [part.id for part in found.mix] == [entry.id]
    [weight, _] = mixing.axes_of(found, {entry.id: entry})
    assert weight.target == "Disc"
    with pytest.raises(StudioError, match="no adapter 'Dics' in the mix; did you mean 'Disc'"):
        mixing.start(context, asked.model_copy(update={"axes": ("weight:Dics=0,1",)}))


def test_a_grid_lets_other_adapters_take_ones_place(
    context: Context, entry: Entry, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    other, _ = context.library.add(make_adapter(tmp_path / "zob.safetensors", seed=3), name="Zob one")
    asked = request(mix=[{"id": entry.id, "weight": 0.5}], axes=[f"adapter=disc,{other.id}"])
    found = mixing.request_of(mixing.start(context, asked))
    assert [(part.id, part.weight) for part in found.mix] == [(entry.id, 0.5), (other.id, 0.0)]
    [axis] = mixing.axes_of(found, {entry.id: entry, other.id: other})
    assert axis.values == ("Disc", "Zob one")
    for axis_text, said in (
        (f"adapter={other.id},{entry.id}", "'Zob one' isn't in the mix"),
        ("adapter=disc,zab one", "no adapter 'zab one' in the library; did you mean 'Zob one'"),
    ):
        with pytest.raises(StudioError, match=said):
            mixing.start(context, asked.model_copy(update={"axes": (axis_text,)}))
    with pytest.raises(StudioError, match="a grid isn't compared"):
        mixing.start(context, asked.model_copy(update={"compare": True}))


@pytest.mark.parametrize(
    ("tag", "weight", "text"),
    [
        ("<lora:disc:0.5>", 0.75, None),
        ("<lora:Disc:0.5:1>", 1.25, 0.75),
        ("<lora:disc:te=0:unet=1>", 1.25, 0.25),
    ],
)
def test_adapters_named_in_the_prompt_add_to_the_sliders(
    context: Context, entry: Entry, tag: str, weight: float, text: float | None
) -> None:
    tagged = request(prompt=f"a cat {tag}", mix=[{"id": entry.id, "weight": 0.25}])
    found = mixing.checked(context, tagged)
    assert found.generation.prompt == "a cat"
    assert found.mix == (mixing.MixPart(id=entry.id, weight=weight, text=text),)


def test_a_tag_turns_on_what_is_off_at_the_tags_weight(context: Context, entry: Entry) -> None:
    tagged = request(prompt="a cat <lora:disc:0.5>", mix=[{"id": entry.id, "weight": 2, "on": False}])
    assert mixing.checked(context, tagged).mix == (mixing.MixPart(id=entry.id, weight=0.5),)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<lora:dics:1>", "no adapter 'dics' in the library; did you mean"),
        ("<lora:disc:5>", "is 5, expected -2"),
    ],
)
def test_a_tag_that_cannot_be_is_one_line(context: Context, entry: Entry, tag: str, said: str) -> None:
    with pytest.raises(StudioError, match=said):
        mixing.start(context, request(prompt=f"a cat {tag}"))
