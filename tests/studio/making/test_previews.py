"""The live preview's wishes: the newest of each window, whatever else is drawn, to the last pixel."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.errors import AdapterError, Busy, PictureError
from pipelines.generate import generate
from studio.context import Context
from studio.gallery import Gallery
from studio.library import Entry
from studio.locks import FileLock
from studio.making import previews as previews_module
from studio.making.held import Held
from studio.making.previews import Previews, Wish, live_settings
from studio.making.sources import Sources
from studio.mixing import Request, read_request

PATIENCE = 60.0


class Answer:
    """Waits for what a wish is answered."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any] | Exception] = []
        self._there = threading.Event()

    def __call__(self, found: dict[str, Any] | Exception) -> None:
        self.found.append(found)
        self._there.set()

    def __bool__(self) -> bool:
        return self._there.is_set()

    def get(self) -> dict[str, Any]:
        """The answer. Raises: what it is."""
        assert self._there.wait(PATIENCE)
        [found] = self.found
        if isinstance(found, Exception):
            raise found
        return found

    def image(self) -> Image.Image:
        """The picture that was answered."""
        return Image.open(io.BytesIO(base64.b64decode(self.get()["picture"]))).convert("RGB")


class Slowed:
    """Counts the steps of a base's UNet, and lets each take `seconds` more."""

    def __init__(self, unet: Any) -> None:
        self.steps, self.seconds = 0, 0.0
        unet.register_forward_pre_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.steps += 1
        time.sleep(self.seconds)


@pytest.fixture
def held(context: Context, tiny_folder: Path) -> Iterator[Held]:
    """The tiny base."""
    found = Held(context.workspace)
    yield found
    found.close()


@pytest.fixture
def previews(held: Held, context: Context) -> Previews:
    """The wishes' thread."""
    return Previews(held, Sources(context.workspace))


@pytest.fixture
def wish(previews: Previews, tiny_folder: Path) -> Callable[..., Answer]:
    """Wish for a picture: `wish(client, generation fields…, mix=…)`."""

    def wish(client: str = "a", **fields: Any) -> Answer:
        answer = Answer()
        previews.wish(Wish(client, str(tiny_folder), request_of(**fields), answer))
        return answer

    return wish


@pytest.fixture
def entry(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> Entry:
    """An adapter in the library."""
    return context.library.add(make_adapter(tmp_path / "zib.safetensors"), name="Zib")[0]


def request_of(**fields: Any) -> Request:
    """A request; fields that aren't its own are the settings'."""
    own = {name: fields.pop(name) for name in list(fields) if name in Request.model_fields}
    return read_request({"generation": {"prompt": "a fox", "seed": 3, **fields}, **own})


@pytest.fixture
def slowed(held: Held, tiny_folder: Path) -> Slowed:
    """The held base's UNet, to be slowed."""
    with held.lent(str(tiny_folder)) as (mixer, _):
        return Slowed(mixer.base.unet)


def test_at_zero_it_is_the_bases_picture_to_the_last_bit(
    wish: Callable[..., Answer], held: Held, entry: Entry, tiny_folder: Path
) -> None:
    part = {"id": entry.id, "weight": 1.0}
    plain, mixed = wish().image().tobytes(), wish(mix=[part]).image().tobytes()
    half = wish(mix=[{**part, "blocks": {"mid_block": 0.5}}]).image().tobytes()
    late = wish(mix=[{**part, "begin": 0.5, "end": 0.5}]).image().tobytes()
    assert len({plain, mixed, half, late}) == 4
    assert wish(mix=[{**part, "weight": 0}]).image().tobytes() == plain
    exact = wish(exact=True, num_inference_steps=3, sampler="ddim", num_images=4, hires_scale=2).image()
    with held.lent(str(tiny_folder)) as (mixer, _):
        mixer.set({})
        config = live_settings(request_of(num_inference_steps=3, sampler="ddim").generation, exact=True)
        assert generate(mixer.base, config)[0].image.tobytes() == exact.tobytes()


def test_a_newer_wish_of_a_window_takes_the_place_of_its_older_ones(
    wish: Callable[..., Answer], slowed: Slowed
) -> None:
    slowed.seconds = 0.05
    first = wish(num_inference_steps=200, exact=True)
    while slowed.steps < 2:
        time.sleep(0.01)
    begun, before = time.perf_counter(), slowed.steps
    second, other, third = wish(seed=5), wish("b", seed=6), wish(seed=7)
    assert first.get() == second.get() == {"overtaken": True}
    assert other.image().size == third.image().size
    assert slowed.steps - before <= 1 + 2 * 5 + 1, "one step more of the first, none of the second"
    assert time.perf_counter() - begun < 5


def test_a_picture_comes_now_and_then_while_a_slider_is_dragged(
    wish: Callable[..., Answer], slowed: Slowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews_module, "FOLLOWING", 0.2)
    monkeypatch.setattr(previews_module, "QUICK", PATIENCE)
    wish().get()
    slowed.seconds = 0.03
    answers: list[Answer] = []
    end = time.monotonic() + PATIENCE
    while sum(bool(answer) and "picture" in answer.get() for answer in answers) < 3:
        answers.append(wish(seed=len(answers)))
        time.sleep(0.01)
        assert time.monotonic() < end
    assert any("overtaken" in answer.get() for answer in answers), "others gave way"
    answers[-1].get()
    monkeypatch.setattr(previews_module, "FOLLOWING", 0.0)
    monkeypatch.setattr(previews_module, "QUICK", 0.0)
    before = slowed.steps
    slowed.seconds = 0.2
    slow = wish(seed=1)
    while slowed.steps == before:
        time.sleep(0.01)
    last = wish(seed=2)
    assert slow.get() == {"overtaken": True}, "where a drawing takes its time, the newest goes first"
    assert "picture" in last.get()


def test_no_window_starves_another(wish: Callable[..., Answer], slowed: Slowed) -> None:
    slowed.seconds = 0.02
    answers = [wish("a", seed=number) for number in range(3)]
    patient = wish("b")
    while not patient:
        answers.append(wish("a", seed=len(answers)))
        time.sleep(0.03)
        assert len(answers) < 300
    assert patient.image().size == answers[-1].image().size


def test_a_job_goes_before_and_the_wish_is_drawn_after_it(
    wish: Callable[..., Answer], held: Held, entry: Entry, slowed: Slowed, tiny_folder: Path, tiny_file: Path
) -> None:
    slowed.seconds = 0.05
    answer = wish(mix=[{"id": entry.id}])
    while slowed.steps < 2:
        time.sleep(0.01)
    with held.lent(str(tiny_folder)) as (mixer, _):
        before = slowed.steps
        mixer.restore()  # as a grid does
        time.sleep(0.2)
        assert slowed.steps == before and not answer
    mixed = answer.image().tobytes()
    assert mixed == wish(mix=[{"id": entry.id}]).image().tobytes()
    answer = wish(mix=[{"id": entry.id}], seed=8)
    with held.lent(str(tiny_file)):
        pass  # another base took its place
    assert answer.image().tobytes() == wish(mix=[{"id": entry.id}], seed=8).image().tobytes()


def test_it_draws_over_a_picture_inside_a_mask(
    wish: Callable[..., Answer], held: Held, context: Context, tiny_folder: Path
) -> None:
    with held.lent(str(tiny_folder)) as (mixer, _):
        drawn = generate(mixer.base, request_of(num_inference_steps=2).generation)[0]
    image = f"image/{Gallery(context.workspace).add(drawn)}"
    over = wish(image=image, strength=0.5).image()
    assert over.tobytes() not in (drawn.image.tobytes(), wish().image().tobytes())
    mask = Image.new("RGB", (16, 16))
    mask.paste("white", (8, 0, 16, 16))
    drawn_mask = type(drawn)(image=mask, settings=drawn.settings, seed=0)
    part = wish(image=image, mask=f"image/{Gallery(context.workspace).add(drawn_mask)}", mask_blur=0).image()
    left = (0, 0, 8, 16)
    assert part.crop(left).tobytes() == drawn.image.crop(left).tobytes()
    assert part.tobytes() != drawn.image.tobytes()


def test_what_cannot_be_is_said_and_the_next_is_drawn(
    wish: Callable[..., Answer], context: Context, entry: Entry
) -> None:
    with pytest.raises(AdapterError, match="no adapter 'gone'"):
        wish(mix=[{"id": "gone"}]).get()
    with pytest.raises(AdapterError, match="weights of 'Zib' name block 'middle'"):
        wish(mix=[{"id": entry.id, "blocks": {"middle": 1}}]).get()
    with pytest.raises(PictureError, match="no picture 'gone'"):
        wish(image="image/gone").get()
    lock = FileLock(context.workspace.device_lock)
    assert lock.acquire(note="job 7")
    with pytest.raises(Busy, match="in use by job 7"):
        wish().get()
    lock.release()
    assert wish().get()["seconds"] > 0
    assert lock.acquire(), "nothing is held between the pictures"
    lock.release()
