"""Grids: how axes are written, what their values make of the settings, and that each cell is a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.adapter import Adapter
from pipelines.axes import AXES, Axis, Spot, read_axis, spots
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError, ConfigError, StudioError
from pipelines.generate import AdapterUse, GenerationConfig, generate, read_settings
from pipelines.grid_drawing import MAX_CELLS, draw_grid
from pipelines.mixer import Mixer
from pipelines.samplers import SAMPLERS
from pipelines.stage import Stage
from tests.tiny import assert_unchanged, random_adapter, save_tiny_pipeline, weights_of

USES = (
    AdapterUse(name="fox", sha256="aa" * 32, weight=0.8),
    AdapterUse(name="ink", sha256="bb" * 32, weight=0.5, text_weight=0.25),
)
FEW = GenerationConfig(
    prompt="a fox in snow", negative_prompt="a dog", num_inference_steps=2, adapters=USES, seed=3
)


@pytest.fixture
def adapters(tiny_base: Base) -> list[Adapter]:
    return [random_adapter(tiny_base, seed=1, name="fox"), random_adapter(tiny_base, seed=2, name="ink")]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=1-5", [1, 2, 3, 4, 5]),
        ("seed=1, 7,9-10", [1, 7, 9, 10]),
        ("seed=1:9:4", [1, 5, 9]),
        ("steps=5", [5]),
        ("weight=0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("weight:fox=-1:0:0.5", [-1, -0.5, 0]),
        ("weight=-0.5,1e0", [-0.5, 1.0]),
        ("cfg=1,7.5", [1, 7.5]),
        ("sampler=Euler a,dpmpp_2m", ["euler_a", "dpmpp_2m"]),
        ('prompt=fox, "cat, sitting",', ["fox", "cat, sitting", ""]),
        ("base=pocket,a/b", ["pocket", "a/b"]),
        ("clip_skip=1-3", [1, 2, 3]),
        ("strength=0.25:1:0.25", [0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_values_are_read(text: str, values: list[Any]) -> None:
    assert list(read_axis(text).values) == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour=1", "unknown axis 'colour'"),
        ("sed=1", "did you mean 'seed'"),
        ("seed", "has no values"),
        ("seed=", "has no values"),
        ("seed=1.5", "1.5 is no whole number"),
        ("seed=a,b", "'a' isn't understood as numbers"),
        ("seed=5-1", "leads nowhere"),
        ("weight=0:1:0", "leads nowhere"),
        ("weight=0:1:-1", "leads nowhere"),
        ("weight=0:1", "isn't understood"),
        ("weight=nan", "nan is no number"),
        ("weight=0:inf:1", "leads nowhere"),
        ("seed=1-1000000000000", "at most 64"),
        ("seed=" + ",".join("1" * 65), "at most 64"),
        ("sampler=eulr", "did you mean 'euler"),
        ("seed:fox=1", "names an adapter, which 'seed' has no use for"),
    ],
)
def test_mistakes_are_one_line(text: str, says: str) -> None:
    with pytest.raises(StudioError) as error:
        read_axis(text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_every_number_of_the_settings_is_an_axis() -> None:
    """A new setting is offered without an edit here; how many and how large are the grid's own."""
    assert {"seed", "num_inference_steps", "guidance_scale", "strength", "clip_skip", "eta"} <= AXES.keys()
    assert not {"num_images", "batch_size", "width", "height"} & AXES.keys()
    for name, row in AXES.items():
        assert row.description, name


def test_values_change_just_what_they_name() -> None:
    start = Spot(config=FEW)

    def after(text: str, number: int = -1) -> dict[str, Any]:
        axis = read_axis(text)
        spot = axis.apply(start, axis.values[number])
        before, now = FEW.model_dump(), spot.config.model_dump()
        found = {name: value for name, value in now.items() if value != before[name]}
        return found | ({"base": spot.base} if spot.base else {})

    assert after("seed=1-9") == {"seed": 9}
    assert after("sampler=heun") == {"sampler": "heun"}
    assert after("base=pocket") == {"base": "pocket"}
    assert after("prompt=a,the") == {"prompt": "the fox in snow", "negative_prompt": "the dog"}
    assert after("prompt=fox,") == {"prompt": "a  in snow"}
    assert after("prompt=fox,owl", 0) == {}
    found = after("adapter=fox,ink")["adapters"]
    assert [(use["name"], use["weight"], use["text_weight"]) for use in found] == [
        ("fox", 0.0, None), ("ink", 0.8, None),
    ]  # fmt: skip
    with pytest.raises(AdapterError, match="no adapter 'inc' in the mix; did you mean 'ink'"):
        after("adapter=fox,inc")
    found = after("weight:ink=1")["adapters"]
    assert [(use["weight"], use["text_weight"]) for use in found] == [(0.8, None), (1.0, 0.5)]
    found = after("weight=0")["adapters"]
    assert [(use["weight"], use["text_weight"]) for use in found] == [(0, None), (0, 0)]
    found = after("text_weight:fox=0.1")["adapters"]
    assert [(use["weight"], use["text_weight"]) for use in found] == [(0.8, 0.1), (0.5, 0.25)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("guidance=0.5", "Guidance is 0.5, expected greater than or equal to 1"),
        ("steps=0", "Steps is 0"),
        ("weight:fox=9", "expected less than or equal to 3"),
        ("weight:owl=1", "no adapter 'owl' in the mix; choose one of fox, ink"),
        ("prompt=cat,dog", "'cat' isn't in the prompt"),
    ],
)
def test_values_that_cant_be_are_refused_before_anything_is_drawn(
    tiny_base: Base, adapters: list[Adapter], text: str, says: str
) -> None:
    drawn: list[Any] = []
    with Stage(tiny_base, adapters) as stage, pytest.raises(StudioError, match=says):
        draw_grid(stage, FEW, [read_axis("seed=1-2"), read_axis(text)], on_step=drawn.append)
    assert not drawn and tiny_base.holder is None


def test_a_weight_axis_needs_an_adapter() -> None:
    with pytest.raises(ConfigError, match="needs an adapter"):
        spots(Spot(config=FEW.model_copy(update={"adapters": ()})), [read_axis("weight=1")])


def test_dear_axes_change_least_often() -> None:
    axes = [read_axis("seed=1-2"), read_axis("base=a,b"), read_axis("weight=0,1")]
    planned = spots(Spot(config=FEW), axes)
    order = [(spot.base, spot.config.adapters[0].weight, spot.config.seed) for spot in planned.values()]
    assert order == [(base, weight, seed) for base in "ab" for weight in (0, 1) for seed in (1, 2)]
    for place, spot in planned.items():
        values = (spot.config.seed, spot.base, spot.config.adapters[0].weight)
        assert values == tuple(axis.values[at] for axis, at in zip(axes, place, strict=True))


def alone(base: Base, adapters: list[Adapter], config: GenerationConfig) -> bytes:
    """The pixels of a picture that is drawn by itself."""
    with Mixer(base) as mixer:
        for adapter in adapters:
            mixer.add(adapter.name, adapter)
        mixer.set({use.name: use.weights() for use in config.adapters})
        return generate(base, config)[0].image.tobytes()


def test_a_cell_is_the_single_picture_bit_for_bit(
    tiny_base: Base, adapters: list[Adapter], tmp_path: Path
) -> None:
    before = weights_of(tiny_base)
    other = save_tiny_pipeline(tmp_path / "other", seed=9)
    axes = [
        read_axis("weight:fox=-1,0,2"),
        read_axis("sampler=Euler a,ddim"),
        read_axis(f"base={tiny_base.ref},{other}"),
    ]
    loaded: list[str] = []

    def load(ref: str) -> Base:
        loaded.append(ref)
        return load_base(ref, device="cpu")

    with Stage(tiny_base, adapters, load=load) as stage:
        grid = draw_grid(stage, FEW, axes)
    assert grid is not None and len(grid.cells) == 12 and loaded == [str(other)]
    assert_unchanged(tiny_base, before)
    bases = [tiny_base, load_base(other, device="cpu")]
    for (x, y, z), picture in grid.cells.items():
        uses = (USES[0].model_copy(update={"weight": axes[0].values[x]}), USES[1])
        config = FEW.model_copy(update={"adapters": uses, "sampler": axes[1].values[y]})
        assert picture.image.tobytes() == alone(bases[z], adapters, config), (x, y, z)
        assert picture.settings["base"]["sha256"] == bases[z].sha256
        again = GenerationConfig.model_validate(picture.settings["generation"])
        assert (again.adapters, again.sampler) == (uses, config.sampler)
    assert len({picture.image.tobytes() for picture in grid.cells.values()}) == 12


def test_the_picture_shows_every_cell_and_its_file_the_axes(
    tiny_base: Base, adapters: list[Adapter], tmp_path: Path
) -> None:
    axes = [read_axis("seed=1-3"), read_axis("weight=0,1")]
    with Stage(tiny_base, adapters) as stage:
        grid = draw_grid(stage, FEW, axes)
    assert grid is not None
    whole = np.asarray(grid.picture.image)
    cell = np.asarray(grid.cells[0, 0].image)
    scale = 128 // cell.shape[0]
    large = [np.asarray(picture.image).repeat(scale, 0).repeat(scale, 1) for picture in grid.cells.values()]
    for picture in large:
        assert _holds(whole, picture)
    grid.picture.save(tmp_path / "grid.png")
    settings = read_settings(tmp_path / "grid.png")
    assert settings["grid"] == [
        {"axis": "seed", "target": None, "values": [1, 2, 3]},
        {"axis": "weight", "target": None, "values": [0.0, 1.0]},
    ]
    assert settings["generation"]["seed"] == 1


def _holds(whole: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture stands somewhere in another, pixel for pixel."""
    height, width = part.shape[:2]
    tops, lefts = np.nonzero((whole[: -height + 1, : -width + 1] == part[0, 0]).all(-1))
    return any(
        (whole[top : top + height, left : left + width] == part).all()
        for top, left in zip(tops, lefts, strict=True)
    )


def test_steps_count_on_and_a_grid_can_be_stopped(tiny_base: Base, adapters: list[Adapter]) -> None:
    seen: list[tuple[int, int]] = []
    axes = [read_axis("steps=2,3"), read_axis("seed=1-2")]
    with Stage(tiny_base, adapters) as stage:
        draw_grid(stage, FEW, axes, on_step=lambda step: seen.append((step.done, step.total)))
        assert seen == [(done, 10) for done in range(1, 11)]
        seen.clear()

        def stop(step: Any) -> bool:
            seen.append((step.done, step.total))
            return step.done < 4

        assert draw_grid(stage, FEW, axes, on_step=stop) is None
    assert seen[-1] == (4, 10) and tiny_base.holder is None


def test_grids_too_large_are_refused_or_made_of_smaller_cells(
    tiny_base: Base, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stage(tiny_base, adapters) as stage:
        for axes in ([read_axis("seed=1-21"), read_axis("steps=1-20")], [], [read_axis("seed=1")] * 4):
            with pytest.raises(ConfigError, match=f"at most {MAX_CELLS}|1 to 3 axes"):
                draw_grid(stage, FEW, axes)
        monkeypatch.setattr("pipelines.grids._MOST_PIXELS", 24)
        grid = draw_grid(stage, FEW, [read_axis("seed=1-3")])
    assert grid is not None and grid.cells[0,].image.width == 16
    smaller = np.asarray(grid.cells[0,].image.reduce(2))
    assert _holds(np.asarray(grid.picture.image), smaller.repeat(16, 0).repeat(16, 1))


def test_a_base_that_cant_be_loaded_gives_the_own_one_back(tiny_base: Base, adapters: list[Adapter]) -> None:
    before = weights_of(tiny_base)
    axes = [Axis(kind="base", values=(tiny_base.ref, "nowhere"))]
    with Stage(tiny_base, adapters) as stage, pytest.raises(ConfigError, match="'nowhere' can't be loaded"):
        draw_grid(stage, FEW, axes)
    assert_unchanged(tiny_base, before)
    assert tiny_base.holder is None


def test_a_stage_wants_each_adapter_of_the_settings(tiny_base: Base, adapters: list[Adapter]) -> None:
    with (
        Stage(tiny_base, adapters[:1]) as stage,
        pytest.raises(ConfigError, match="name 2 adapters, 1 are here"),
    ):
        stage.draw(FEW)


def test_labels_say_the_value() -> None:
    def labels(text: str) -> list[str]:
        axis = read_axis(text)
        return [axis.label(value) for value in axis.values]

    assert labels("weight=0,0.5") == ["All 0", "All 0.5"]
    assert labels("weight:fox=0.5") == ["fox 0.5"]
    assert labels("steps=5") == ["Steps 5"]
    assert labels("sampler=euler") == [SAMPLERS["euler"].label]
    assert labels("base=a/b/dream.safetensors,pocket") == ["dream", "pocket"]
    assert labels("prompt=fox,") == ["fox", "(nothing)"]
