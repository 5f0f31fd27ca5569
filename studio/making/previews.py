"""The live preview's wishes: of each window the newest alone, the windows in turn, one drawing at a time."""

from __future__ import annotations

import base64
import io
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.making.drawing import uses_of, weights_of
from studio.making.held import Held
from studio.making.sources import Sources
from studio.mixing import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.generation import GenerationConfig
    from pipelines.live import Frame, Live

FOLLOWING = 0.6  # seconds without a picture after which a quick drawing is let end, whatever came meanwhile
QUICK = 1.0  # seconds that it takes at most
_WINDOWS = 256  # that are remembered
_TRIES = 4  # a drawing job may take the adapters or the base away in between


@dataclass(eq=False)
class Wish:
    """What a window wants to see. answer: called once, with the answer or an exception."""

    client: str
    base: str
    request: Request
    answer: Callable[[dict[str, Any] | Exception], object]
    overtaken: bool = False

    def give_up(self) -> None:
        """Say that a newer one took its place."""
        self.overtaken = True
        self.answer({"overtaken": True})


class Previews:
    """Draws wishes in a thread of its own, on the base and the mixer that are held."""

    def __init__(self, held: Held, sources: Sources) -> None:
        self._held, self._sources = held, sources
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, Wish] = OrderedDict()
        self._now: Wish | None = None
        self._live: Live | None = None  # that draws `_now`
        self._since: dict[str, float] = {}  # since when windows that wish have no picture, monotonic
        self._took = math.inf  # seconds of the last drawing
        self._thread = threading.Thread(target=self._work, name="previews", daemon=True)
        self._thread.start()

    def wish(self, wish: Wish) -> None:
        """Take a wish up, in the place of an older one of its window.

        While a slider is dragged a picture comes now and then, where that is quick; else only the newest.
        """
        with self._changed:
            before = self._waiting.get(wish.client)
            if before is None and (self._now is None or self._now.client != wish.client):
                if len(self._since) > _WINDOWS:
                    self._since.clear()
                self._since[wish.client] = time.monotonic()
            self._waiting[wish.client] = wish
            if before is not None:
                before.give_up()
            now = self._now
            if now is not None and now.client == wish.client and not now.overtaken and self._stale(now):
                now.give_up()
                if self._live is not None:
                    self._live.forget()
            self._changed.notify_all()

    def idle(self, timeout: float = 30.0) -> None:
        """Wait until no wish is there, at most some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._now is None, timeout)

    def _stale(self, now: Wish) -> bool:
        """Whether what is drawn is given up for a newer wish of its window."""
        here = time.monotonic()
        waited = here - self._since.get(now.client, here)
        return now.request.exact or waited < FOLLOWING or self._took > QUICK

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                _, wish = self._waiting.popitem(last=False)
                self._now = wish
            try:
                answer: dict[str, Any] | Exception | None = self._answer(wish)
            except Exception as error:
                answer = error
            with self._changed:
                self._now = None
                self._changed.notify_all()
                if isinstance(answer, dict):
                    self._since[wish.client] = time.monotonic()
                    if not wish.request.exact:
                        self._took = answer["seconds"]
                if not wish.overtaken and answer is not None:
                    wish.answer(answer)

    def _answer(self, wish: Wish) -> dict[str, Any] | None:
        """Draw a wish; None where it was overtaken."""
        for last in (False,) * (_TRIES - 1) + (True,):
            with self._held.device.taken("the live preview"):
                frame = self._frame(wish, last)
            if wish.overtaken:
                return None
            if frame is not None and frame.image is not None:
                return {"picture": png(frame.image), "seconds": frame.seconds, "number": frame.id}
        raise RuntimeError("the live preview was closed again and again")

    def _frame(self, wish: Wish, last: bool) -> Frame | None:
        """The engine's answer; None where it has to be asked again, or the wish was overtaken."""
        from pipelines.errors import AdapterError
        from pipelines.live import Request as Asked

        ids = [part.id for part in wish.request.mix]
        with self._held.lent(wish.base) as (mixer, live):
            if wish.overtaken:
                return None
            uses = uses_of(wish.request, self._held.attach(mixer, ids))
            config, inputs = self._sources.of(wish.request)
            config = live_settings(config, exact=wish.request.exact)
            asked = Asked(config=config, weights=weights_of(uses, mixer), inputs=inputs)
            with self._changed:
                if wish.overtaken:
                    return None
                number, self._live = live.submit(asked), live
        try:
            return live.wait(number)
        except AdapterError:
            if last or set(ids) <= set(mixer.names):
                raise
            return None
        finally:
            with self._changed:
                self._live = None


def live_settings(config: GenerationConfig, *, exact: bool) -> GenerationConfig:
    """The settings of a preview: one picture in one pass; with few steps where not asked for exactly its own.

    Its sampler is then the one that needs the fewest.
    """
    from pipelines.live import LIVE_SAMPLER, LIVE_STEPS

    few = {"num_inference_steps": LIVE_STEPS, "sampler": LIVE_SAMPLER, "eta": 0.0}
    single = {"num_images": 1, "batch_size": 1, "hires_scale": 1.0}
    return config.model_copy(update=single if exact else {**few, **single})


def png(image: Image) -> str:
    """A picture as a PNG in base64, packed quickly."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
