"""Live preview: a picture that follows the sliders, few steps each, the newest wish first.

One thread draws. A wish that a newer one overtakes is given up within one denoising step. What doesn't
change from wish to wish is kept: the encoded prompts as long as nothing in the mix moves the text
encoders. A seed's noise is drawn anew each time, which takes some 20 µs where a step takes 50 ms.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from pipelines.denoise import Step, at_rest_after, denoise
from pipelines.drawing.images import drawing_size, to_images
from pipelines.drawing.plans import make_plan
from pipelines.drawing.safety import blackened, safety_checker
from pipelines.errors import Busy, ConfigError
from pipelines.generate import generate
from pipelines.generation import GenerationConfig, Inputs
from pipelines.latent_preview import fit
from pipelines.prompts import encode, resolve_wildcards, split_tags

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.conditioning import Conditioning
    from pipelines.mixer import Mixer, Weight

LIVE_STEPS, LIVE_SAMPLER = 5, "dpmpp_2m_sgm_uniform"
"""On the embedded base 29 dB and more from what it draws in 20 steps; other samplers are 18 to 24 dB off."""

_KEPT_TEXTS = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """A wish: what to draw, at which weights of the mixer's adapters (those not named are at 0).

    inputs: what is drawn over, and its mask; None draws from noise alone.
    """

    config: GenerationConfig
    weights: Mapping[str, Weight] = field(default_factory=dict)
    inputs: Inputs | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """An answer. id: the wish's. image: None where `error` says why there is none.

    final: whether it is the picture itself; else a rough one by the way, after `done` of `total` steps.
    seconds: from the time that its drawing began.
    """

    id: int
    image: Image | None
    done: int
    total: int
    seconds: float
    final: bool = True
    error: Exception | None = None


OnFrame = Callable[[Frame], None]


def live_config(prompt: str, **fields: Any) -> GenerationConfig:
    """Return settings with few steps, by the sampler that needs fewest. fields: set over them."""
    few = {"num_inference_steps": LIVE_STEPS, "sampler": LIVE_SAMPLER}
    return GenerationConfig.model_validate({"prompt": prompt, **few, **fields})


class Live:
    """Draws in a thread of its own what `submit` wishes; as a context manager it is closed at the end.

    The mixer and its base are this engine's until `close`; `paused` lends them. A picture equals, bit for
    bit, what `generate` gives for the same settings and mix.
    """

    def __init__(self, mixer: Mixer, on_frame: OnFrame | None = None, *, rough: bool = False) -> None:
        """on_frame: called in the drawing thread with every answer; should be quick.

        rough: give a rough picture after each step too, for bases that take seconds.
        """
        self._mixer, self._on_frame, self._rough = mixer, on_frame, rough
        self._changed = threading.Condition()
        self._using = threading.Lock()
        self._waiting: tuple[int, Request] | None = None
        self._count, self._answered, self._forgotten = 0, 0, 0
        self._latest: Frame | None = None
        self._closed, self._pauses = False, 0
        self._texts: OrderedDict[Any, Conditioning] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="live preview", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> int:
        """Wish for a picture, in the place of the one that is waiting or being drawn. Returns its number.

        Raises: Busy after `close`; ConfigError for settings other than one picture in one pass.
        """
        _check(request)
        with self._changed:
            if self._closed:
                raise Busy("the live preview is closed; open another")
            self._count += 1
            self._waiting = (self._count, request)
            self._changed.notify_all()
            return self._count

    def forget(self) -> None:
        """Give up the wish that is waiting or being drawn, within a step; there is no answer to it."""
        with self._changed:
            self._waiting, self._forgotten = None, self._count
            self._changed.notify_all()

    def latest(self) -> Frame | None:
        """The newest answer; None before the first."""
        with self._changed:
            return self._latest

    def wait(self, number: int, timeout: float | None = None) -> Frame | None:
        """Wait for the final answer to wish `number` or a newer one.

        None after `timeout` seconds, `close`, or where it was forgotten.
        Raises: what its drawing raised.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: max(self._answered, self._forgotten) >= number or self._closed, timeout
            )
            frame = self._latest if self._answered >= number else None
        if frame is not None and frame.error is not None:
            raise frame.error
        return frame

    @contextmanager
    def paused(self) -> Iterator[Mixer]:
        """Stop drawing within a step and lend the mixer, to take adapters in or draw otherwise.

        The wish that was being drawn is drawn anew afterwards, unless a newer one came.
        """
        with self._changed:
            self._pauses += 1
        try:
            with self._using:
                try:
                    yield self._mixer
                finally:
                    self._texts.clear()  # an adapter of the same name may be another one now
        finally:
            with self._changed:
                self._pauses -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stop within a step and end the thread. The mix stays as it was last."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or (self._waiting is not None and not self._pauses)
                )
                if self._closed:
                    return
                assert self._waiting is not None
                number, request = self._waiting
                self._waiting = None
            with self._using:
                frame = self._drawn(number, request)
            if frame is not None:
                self._tell(frame)
                continue
            with self._changed:  # stopped: by a pause it waits again, if nothing newer does
                if self._waiting is None and number > self._forgotten:
                    self._waiting = (number, request)

    def _stopped(self, number: int) -> bool:
        with self._changed:
            overtaken = self._waiting is not None or number <= self._forgotten
            return self._closed or overtaken or self._pauses > 0

    def _drawn(self, number: int, request: Request) -> Frame | None:
        """Draw a wish; None where something newer stopped it. Errors become an answer."""
        begun = time.perf_counter()
        total = request.config.num_inference_steps

        def on_step(step: Step) -> bool:
            if self._stopped(number):
                return False
            if self._rough and step.done < step.total:
                image = self._safe(request.config, fit(self._mixer.base).picture(step.estimate()))
                spent = time.perf_counter() - begun
                self._tell(
                    Frame(id=number, image=image, done=step.done, total=total, seconds=spent, final=False)
                )
            return True

        try:
            image = self._picture(number, request, on_step)
        except Exception as error:
            _log.debug("live preview %d failed", number, exc_info=True)
            spent = time.perf_counter() - begun
            return Frame(id=number, image=None, done=0, total=total, seconds=spent, error=error)
        if image is None:
            return None
        return Frame(id=number, image=image, done=total, total=total, seconds=time.perf_counter() - begun)

    def _picture(self, number: int, request: Request, on_step: Callable[[Step], bool]) -> Image | None:
        base, config = self._mixer.base, request.config
        with torch.no_grad(), at_rest_after(base):
            self._mixer.set(request.weights)
            if self._stopped(number):
                return None
            if request.inputs is not None:
                drawn = generate(base, config, inputs=request.inputs, on_step=on_step)
                return drawn[0].image if drawn else None
            size, _ = drawing_size(base, config, None)
            plan = make_plan(base, config, self._context(config), [config.seed], size)
            latents = denoise(base, plan, on_step)
            return None if latents is None else self._safe(config, to_images(base.decode_latents(latents))[0])

    def _safe(self, config: GenerationConfig, image: Image) -> Image:
        """The picture, or a black one where the base's own checker flags it."""
        return blackened(image) if safety_checker(self._mixer.base, config.safety_checker)(image) else image

    def _context(self, config: GenerationConfig) -> Conditioning:
        """Encode the prompts, or take what was encoded with the same text encoders."""
        guided = config.guidance_scale > 1
        texts = (config.prompt, config.negative_prompt if guided else "")
        prompt, negative = (resolve_wildcards(text, config.seed) for text in texts)
        key = (prompt, negative, guided, config.clip_skip, self._text_mix())
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        _, tags = split_tags(prompt)
        if tags:
            raise ConfigError(
                f"the prompt names {tags[0].name!r} by a tag; move its slider in the place of that"
            )
        positive, other = encode(
            self._mixer.base, [prompt], [negative] if guided else [], clip_skip=config.clip_skip
        )
        found = self._texts[key] = positive.after(other) if guided else positive
        while len(self._texts) > _KEPT_TEXTS:
            self._texts.popitem(last=False)
        return found

    def _text_mix(self) -> tuple[Any, ...]:
        """What of the mix acts on the text encoders: the adapters that reach them, at their weights there."""
        encoders = tuple(self._mixer.base.text_encoders())
        found = []
        for name, weights in self._mixer.settings.items():
            adapter = self._mixer.adapters[name]
            reaches = bool(adapter.tokens) or any(
                not module.startswith("unet.") for module in adapter.factors
            )
            row = tuple(weights.row(encoders, encoders, None))
            if reaches and any(row):
                found.append((name, row))
        return tuple(found)

    def _tell(self, frame: Frame) -> None:
        with self._changed:
            self._latest = frame
            if frame.final:
                self._answered = frame.id
            self._changed.notify_all()
        if self._on_frame is not None:
            try:
                self._on_frame(frame)
            except Exception:
                _log.exception("what is called with a live preview's answer failed")


def _check(request: Request) -> None:
    """Raise ConfigError for settings that a live preview leaves out."""
    plain = GenerationConfig.model_fields
    names = ["controls", "image_prompt", "hires_scale", "num_images"]
    for name in names if request.inputs is not None else [*names, "image", "mask"]:
        if getattr(request.config, name) != plain[name].get_default():
            title = plain[name].title or name
            raise ConfigError(f"a live preview is one picture in one pass; leave {title!r} out")
