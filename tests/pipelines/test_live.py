"""The live preview: the newest wish wins at once, its picture is generate's, and errors arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import Base
from pipelines.errors import AdapterError, Busy, ConfigError
from pipelines.generate import AdapterUse, GenerationConfig, Inputs, PictureUse, generate
from pipelines.generation import recorded
from pipelines.grids import psnr
from pipelines.live import Frame, Live, Request, live_config
from pipelines.mixer import Mixer
from tests.tiny import random_adapter, target_modules

FEW = live_config("a fox", seed=3)
PATIENCE = 60.0


class Watched:
    """Counts the calls of a module, and can hold each up."""

    def __init__(self, module: torch.nn.Module, seconds: float = 0.0) -> None:
        self.calls, self.seconds, self.began = 0, seconds, threading.Event()
        self._hook = module.register_forward_pre_hook(self._called)

    def _called(self, *_: Any) -> None:
        self.calls += 1
        self.began.set()
        time.sleep(self.seconds)


@pytest.fixture
def mixer(tiny_base: Base) -> Iterator[Mixer]:
    """A mixer with an adapter of the UNet alone ("unet") and one of both ("both")."""
    modules = target_modules(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("unet", random_adapter(tiny_base, [m for m in modules if m.startswith("unet.")], seed=1))
        mixer.add("both", random_adapter(tiny_base, modules, seed=2))
        yield mixer


def answer(live: Live, config: GenerationConfig = FEW, **weights: Any) -> Frame:
    """The final answer to one wish."""
    frame = live.wait(live.submit(Request(config=config, weights=weights)), PATIENCE)
    assert frame is not None and frame.final
    return frame


def test_a_picture_is_generates_bit_for_bit(mixer: Mixer) -> None:
    configs = [
        FEW,
        FEW.model_copy(update={"prompt": "a {fox|cat|dog} (on:1.3) snow", "negative_prompt": "grey"}),
        FEW.model_copy(update={"guidance_scale": 1.0, "width": 32, "clip_skip": 2}),
        FEW.model_copy(update={"sampler": "dpmpp_2m_sde", "guidance_rescale": 0.7}),
    ]
    wishes: list[tuple[GenerationConfig, dict[str, Any]]] = [
        (config, weights)
        for config in configs
        for weights in ({}, {"unet": 0.5}, {"unet": -1.0, "both": (0.3, 1.0)}, {"both": 1.0})
    ]
    with Live(mixer) as live:
        answers = [answer(live, config, **weights) for config, weights in wishes]
    drawn = set()
    for (config, weights), frame in zip(wishes, answers, strict=True):
        mixer.set(weights)
        alone = generate(mixer.base, config)[0].image
        assert frame.image is not None and frame.image.tobytes() == alone.tobytes(), (config, weights)
        drawn.add(alone.tobytes())
    assert len(drawn) == len(wishes)


def test_a_wish_that_is_overtaken_is_dropped(mixer: Mixer) -> None:
    Watched(mixer.base.unet, 0.02)
    told: list[Frame] = []
    with Live(mixer, told.append) as live:
        for weight in range(30):
            last = live.submit(Request(config=FEW, weights={"unet": weight / 30}))
        frame = live.wait(last, PATIENCE)
    assert frame is not None and frame.id == last == 30
    assert len(told) <= 3 and [one.id for one in told] == sorted(one.id for one in told)
    mixer.set({"unet": 29 / 30})
    assert frame.image is not None and frame.image.tobytes() == generate(mixer.base, FEW)[0].image.tobytes()


def test_an_overtaken_wish_ends_within_one_step(mixer: Mixer) -> None:
    unet = Watched(mixer.base.unet, 0.1)
    long = FEW.model_copy(update={"num_inference_steps": 500})
    with Live(mixer) as live:
        live.submit(Request(config=long))
        assert unet.began.wait(PATIENCE)
        before = unet.calls
        frame = answer(live)
        assert unet.calls - before <= 1 + FEW.num_inference_steps + 1
        assert frame.seconds < 500 * 0.1
        unet.began.clear()
        live.submit(Request(config=long))
        assert unet.began.wait(PATIENCE)
        before = unet.calls
    assert unet.calls - before <= 1, "close waits for one step at most"


def test_text_is_encoded_again_only_where_something_moved_its_encoders(mixer: Mixer) -> None:
    text = Watched(mixer.base.text_encoder)

    def calls(config: GenerationConfig = FEW, **weights: Any) -> int:
        before = text.calls
        answer(live, config, **weights)
        return text.calls - before

    with Live(mixer) as live:
        assert calls() > 0
        assert calls(unet=0.5) == calls(unet=0.9) == 0
        assert calls(FEW.model_copy(update={"seed": 9, "num_inference_steps": 3})) == 0
        assert calls(both=(1.0, 0.0)) == 0, "it acts on the UNet alone"
        assert calls(both=0.5) > 0
        assert calls(both=(0.9, 0.5), unet=1.0) == 0
        assert calls(both=0.6) > 0
        assert calls(both=0.5) == calls() == 0, "what was encoded before is kept"
        assert calls(FEW.model_copy(update={"prompt": "an owl"})) > 0
        assert calls(FEW.model_copy(update={"negative_prompt": "an owl"})) > 0
        assert calls(FEW.model_copy(update={"guidance_scale": 1.0})) > 0
        with live.paused() as lent:
            lent.add("both", random_adapter(lent.base, seed=7))
        assert calls(both=0.5) > 0, "another adapter of the same name"


def test_errors_reach_who_asked_and_the_next_wish_is_drawn(
    mixer: Mixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Live(mixer) as live:
        for request, kind, says in (
            (Request(config=FEW, weights={"nobody": 1.0}), AdapterError, "no adapter 'nobody'"),
            (Request(config=FEW, weights={"unet": 9.0}), AdapterError, "choose from -2 to 3"),
            (Request(config=FEW.model_copy(update={"eta": 0.5})), ConfigError, "eta is 0.5"),
            (Request(config=FEW.model_copy(update={"prompt": "x <lora:fox:1>"})), ConfigError, "by a tag"),
        ):
            number = live.submit(request)
            with pytest.raises(kind, match=says):
                live.wait(number, PATIENCE)
            latest = live.latest()
            assert latest is not None and latest.id == number and isinstance(latest.error, kind)
            assert answer(live).image is not None
        with monkeypatch.context() as patch:
            patch.setattr(type(mixer.base), "decode_latents", _broken)
            number = live.submit(Request(config=FEW))
            with pytest.raises(RuntimeError, match="out of memory"):
                live.wait(number, PATIENCE)
        assert answer(live).image is not None


def _broken(*_: Any) -> None:
    raise RuntimeError("out of memory")


def test_settings_that_it_leaves_out_are_refused_at_once(mixer: Mixer) -> None:
    record = PictureUse(name="a", sha256="0" * 64)
    with Live(mixer) as live:
        for fields in ({"image": record}, {"mask": record}, {"hires_scale": 2.0}, {"num_images": 2}):
            with pytest.raises(ConfigError, match="one picture in one pass; leave"):
                live.submit(Request(config=FEW.model_copy(update=fields)))
        assert live.latest() is None


def test_what_is_forgotten_stops_within_a_step_and_has_no_answer(mixer: Mixer) -> None:
    unet = Watched(mixer.base.unet, 0.05)
    long = FEW.model_copy(update={"num_inference_steps": 100})
    with Live(mixer) as live:
        number = live.submit(Request(config=long))
        assert unet.began.wait(PATIENCE)
        begun, before = time.perf_counter(), unet.calls
        live.forget()
        assert live.wait(number, PATIENCE) is None
        assert time.perf_counter() - begun < 2.0
        time.sleep(0.2)
        assert unet.calls - before <= 1
        with live.paused():  # one that waits is forgotten too, and a pause doesn't bring it back
            number = live.submit(Request(config=long))
            live.forget()
        assert live.wait(number, PATIENCE) is None
        assert answer(live).image is not None


def test_a_picture_over_another_is_generates_bit_for_bit(mixer: Mixer) -> None:
    under = Image.effect_noise((16, 16), 60).convert("RGB")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    with Live(mixer) as live:
        for inputs in (Inputs(image=under), Inputs(image=under, mask=mask)):
            config = recorded(FEW, inputs)
            frame = live.wait(
                live.submit(Request(config=config, weights={"unet": 1.0}, inputs=inputs)), PATIENCE
            )
            assert frame is not None and frame.image is not None
            with live.paused() as lent:
                lent.set({"unet": 1.0})
                expected = generate(lent.base, config, inputs=inputs)[0].image
            assert frame.image.tobytes() == expected.tobytes()


def test_a_pause_lends_the_mixer_and_the_wish_goes_on_after_it(mixer: Mixer) -> None:
    unet = Watched(mixer.base.unet, 0.05)
    with Live(mixer) as live:
        number = live.submit(Request(config=FEW, weights={"unet": 1.0}))
        assert unet.began.wait(PATIENCE)
        with live.paused() as lent:
            before = unet.calls
            lent.add("new", random_adapter(lent.base, seed=5))
            time.sleep(0.2)
            assert unet.calls == before
        frame = live.wait(number, PATIENCE)
        assert frame is not None and frame.id == number
        fresh = answer(live, new=0.5)
    mixer.set({"unet": 1.0})
    assert frame.image is not None and frame.image.tobytes() == generate(mixer.base, FEW)[0].image.tobytes()
    mixer.set({"new": 0.5})
    assert fresh.image is not None and fresh.image.tobytes() == generate(mixer.base, FEW)[0].image.tobytes()


def test_rough_pictures_come_after_each_step(mixer: Mixer) -> None:
    told: list[Frame] = []
    with Live(mixer, told.append, rough=True) as live:
        last = answer(live)
    assert [frame.done for frame in told] == [1, 2, 3, 4, 5]
    assert [frame.final for frame in told] == [False] * 4 + [True]
    assert {frame.image.size for frame in told if frame.image is not None} == {(16, 16)}
    assert told[-1] is last


def test_what_listens_may_fail_and_may_close(mixer: Mixer) -> None:
    def fails(frame: Frame) -> None:
        raise ValueError("page is gone")

    with Live(mixer, fails) as live:
        assert answer(live).id == 1 and answer(live).id == 2
    lives: list[Live] = []
    closing = Live(mixer, lambda frame: lives[0].close())
    lives.append(closing)
    closing.submit(Request(config=FEW))
    closing._thread.join(PATIENCE)
    assert not closing._thread.is_alive()


def test_after_closing_nothing_is_drawn(mixer: Mixer) -> None:
    live = Live(mixer)
    assert live.wait(1, 0.01) is None and live.latest() is None
    live.close()
    with pytest.raises(Busy, match="closed"):
        live.submit(Request(config=FEW))
    assert live.wait(1) is None
    assert not live._thread.is_alive()
    live.close()


def test_few_steps_show_what_twenty_would(pocket: Base) -> None:
    """Recognisable: nearer to the finished picture of its own seed than to those of others."""
    finished = [
        generate(pocket, live_config("a cat", seed=seed, num_inference_steps=20))[0].image for seed in (0, 1)
    ]
    with Mixer(pocket) as mixer, Live(mixer) as live:
        for seed in (0, 1):
            image = answer(live, live_config("a cat", seed=seed)).image
            assert image is not None
            own, other = (psnr(image, finished[number]) for number in (seed, 1 - seed))
            assert own > other + 10 and own > 25
            assert np.asarray(image).std() > 30


def test_uses_are_taken_as_weights(mixer: Mixer) -> None:
    """What a picture's settings record of an adapter is what a wish takes."""
    use = AdapterUse(name="both", sha256="", weight=0.4, text_weight=0.9, blocks={"mid_block": 0.0}, end=0.5)
    with Live(mixer) as live:
        frame = answer(live, both=use.weights())
    mixer.set({"both": use.weights()})
    assert frame.image is not None and frame.image.tobytes() == generate(mixer.base, FEW)[0].image.tobytes()


def test_wishes_may_come_from_many_threads(mixer: Mixer) -> None:
    errors: list[BaseException] = []

    def wish(live: Live, seed: int) -> None:
        try:
            for weight in (0.1, 0.2, 0.3):
                frame = answer(live, FEW.model_copy(update={"seed": seed}), unet=weight)
                assert frame.image is not None
        except BaseException as error:
            errors.append(error)

    with Live(mixer) as live:
        threads = [threading.Thread(target=wish, args=(live, seed)) for seed in range(4)]
        _each(threads, lambda thread: thread.start())
        _each(threads, lambda thread: thread.join(PATIENCE))
        last = answer(live, unet=1.0)
    assert not errors
    mixer.set({"unet": 1.0})
    assert last.image is not None and last.image.tobytes() == generate(mixer.base, FEW)[0].image.tobytes()


def _each(threads: list[threading.Thread], do: Callable[[threading.Thread], None]) -> None:
    for thread in threads:
        do(thread)


def test_what_a_bases_checker_flags_is_black_rough_or_not(
    mixer: Mixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.live.safety_checker", lambda base, wanted: lambda image: wanted)
    told: list[Frame] = []
    with Live(mixer, told.append, rough=True) as live:
        answer(live)
        assert all(frame.image is not None and frame.image.getbbox() is None for frame in told)
        free = answer(live, FEW.model_copy(update={"safety_checker": False}))
        assert free.image is not None and free.image.getbbox() is not None
