"""NaN and infinity while pictures are drawn: said in one line, kept nowhere, and the next picture is as ever.

The drawing process's own `Maker` works here on a workspace and the tiny base, as `studio.maker` has it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest import MonkeyPatch

from tests.faults.ground import ground
from tests.faults.not_finite_runs import BAD
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from studio.jobs import Job
    from studio.maker import Maker
    from studio.workspace import Workspace

SETTINGS = {"prompt": "a zuv disc", "seed": 7, "num_images": 1, "num_inference_steps": 3}
WAIT = 60.0  # seconds for the answer to a live preview's wish


@dataclass(eq=False)
class Desk:
    """A workspace with two adapters, the second far too large, and what draws in it."""

    workspace: Workspace
    maker: Maker
    adapters: tuple[str, ...]

    def job(self, **fields: Any) -> Job:
        """Draw with the first adapter, to the job's end. fields: of the request."""
        import psutil  # type: ignore[import-untyped]

        jobs, config = self.maker.jobs, {**self.request(**fields), "base": str(ground() / "base")}
        job = jobs.submit("generate", "a zuv disc", config)
        assert jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        self.maker.generate(job.id)
        return jobs.get(job.id)

    def request(self, **fields: Any) -> dict[str, Any]:
        """What is asked for, as JSON values."""
        from studio import mixing

        asked = {"generation": SETTINGS, "mix": [{"id": self.adapters[0], "weight": 0.5}], **fields}
        return mixing.read_request(asked).model_dump(mode="json")

    def live(self, **fields: Any) -> dict[str, Any] | Exception:
        """The live preview's answer."""
        answers: list[dict[str, Any] | Exception] = []
        there = threading.Event()

        def answer(found: dict[str, Any] | Exception) -> None:
            answers.append(found)
            there.set()

        self.maker.live(answer, "window", self.request(**fields), str(ground() / "base"))
        assert there.wait(WAIT), "the live preview gave no answer"
        return answers[0]

    def pictures(self) -> list[str]:
        """Names of the pictures in the gallery's folder."""
        return sorted(path.name for path in self.workspace.folder("images").glob("*.png"))


@contextmanager
def desk_in(folder: Path) -> Iterator[Desk]:
    """A desk; what it has loaded is let go of afterwards."""
    from pipelines.base import load_base
    from pipelines.formats import write_adapter
    from studio.library import Library
    from studio.maker import Maker
    from studio.workspace import Workspace
    from tests.tiny import random_adapter

    folder.mkdir(parents=True)
    base, ids = load_base(ground() / "base", device="cpu"), []
    workspace = Workspace.open(folder / "workspace")
    for seed, strength in ((1, 0.3), (2, 1e37)):
        path = folder / f"{seed}.safetensors"
        write_adapter(random_adapter(base, seed=seed, strength=strength), path, dtype="fp32")
        ids.append(Library(workspace).add(path, name=f"Disc {seed}")[0].id)
    maker = Maker(workspace)
    try:
        yield Desk(workspace, maker, tuple(ids))
    finally:
        maker.held.close()
        workspace.close()


# ── Where the number comes from


@contextmanager
def _answering(module: Any, value: float) -> Iterator[None]:
    """Let a module's answer hold the number."""
    import torch

    def spoil(_: Any, given: Any, answer: Any) -> Any:
        found = answer[0] if isinstance(answer, tuple) else answer
        for tensor in found.values() if isinstance(found, Mapping) else [found]:
            if isinstance(tensor, torch.Tensor):
                tensor[..., 0].fill_(value)
        return answer

    handle = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def _in_base(part: str) -> Callable[[Desk, float], Any]:
    """Of a part of the base that is held."""

    def come(desk: Desk, value: float) -> Any:
        with desk.maker.held.lent(str(ground() / "base")) as (mixer, _):
            base = mixer.base
        return _answering(base.vae.decoder if part == "vae" else base.component(part), value)

    return come


@contextmanager
def _in_mix(desk: Desk, value: float) -> Iterator[dict[str, Any]]:
    """Of the mix itself: an adapter of numbers that are so large that what follows can't be held."""
    yield {"mix": [{"id": one, "weight": -2.0 if value < 0 else 2.0} for one in desk.adapters]}


SOURCES: dict[str, Callable[[Desk, float], Any]] = {
    "the UNet's answer": _in_base("unet"),
    "the mix": _in_mix,
    "the decoder's answer": _in_base("vae"),
    "a text's embedding": _in_base("text_encoder"),
}


# ── What is asked for meanwhile


def _drawn(desk: Desk, fields: dict[str, Any]) -> str | None:
    before = set(desk.pictures())
    job = desk.job(**fields)
    if job.state != "failed" or not _says(job.error):
        return f"the job is {job.state}: {job.error!r}"
    sound = {f"{one}.png" for one in job.result.get("plain", ())}  # without the mix
    return "a picture was kept" if set(desk.pictures()) - before - sound else None


def _lived(desk: Desk, fields: dict[str, Any]) -> str | None:
    answer = desk.live(**fields)
    if isinstance(answer, dict):
        return "the live preview shows a picture"
    return None if _says(str(answer)) else f"the live preview says: {answer}"


def _compared(verb: str) -> Callable[[Desk, dict[str, Any]], str | None]:
    """What adapters do to each other."""

    def compare(desk: Desk, fields: dict[str, Any]) -> str | None:
        from pipelines.errors import StudioError

        try:
            found = getattr(desk.maker, verb)(fields["mix"], base=str(ground() / "base"))
        except StudioError as error:
            return None if _says(str(error)) else f"it says: {error}"
        return f"it answers: {str(found)[:200]}"

    return compare


def _says(line: str) -> bool:
    """Whether a line tells people that numbers broke."""
    return "\n" not in line and ("NaN" in line or "finite" in line or "too large" in line)


WAYS: dict[str, Callable[[Desk, dict[str, Any]], str | None]] = {
    "a picture": _drawn,
    "a live preview": _lived,
    "a grid": lambda desk, fields: _drawn(desk, {**fields, "axes": ["steps=1,2"]}),
    "an exact preview": lambda desk, fields: _lived(desk, {**fields, "exact": True}),
    "a comparison": lambda desk, fields: _drawn(desk, {**fields, "compare": True}),
}


OF_MIXES: dict[str, Callable[[Desk, dict[str, Any]], str | None]] = {
    f"{verb} of adapters": _compared(verb) for verb in ("sentences", "interference", "balance")
}
"""Ways that only the mix itself can break here."""


def run(task: Task, tally: Tally) -> None:
    """Let each way of drawing meet each source, and draw as ever after it."""
    with desk_in(task.folder / "desk") as desk:
        expected = drawn_pixels(desk)
        cases = [*product(BAD, WAYS, SOURCES), *product(BAD, OF_MIXES, ["the mix"])]
        for bad, way, source in cases:
            if tally.tried >= task.count:
                return
            with SOURCES[source](desk, BAD[bad]) as fields:
                problem = {**WAYS, **OF_MIXES}[way](desk, fields or {})
            if problem is None and drawn_pixels(desk) != expected:
                problem = "the next picture is another one than before"
            tally.happened(f"{bad} in {source} while {way} is drawn", problem)


def drawn_pixels(desk: Desk) -> bytes:
    """The pixels of an undisturbed picture."""
    from PIL import Image

    job = desk.job()
    assert job.state == "done", job.error
    with Image.open(desk.workspace.folder("images", f"{job.result['images'][0]}.png")) as image:
        return image.tobytes()


# ── Safeguards


def _shown_as_it_is(patch: MonkeyPatch) -> None:
    """What isn't made of numbers is shown: black."""
    import torch

    from pipelines.base import Base

    def decode(self: Base, latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            decoded: torch.Tensor = self.vae.decode(latents / self.scaling_factor).sample
        return decoded.nan_to_num(-1.0).clamp(-1.0, 1.0)

    patch.setattr(Base, "decode_latents", decode)


PLANTS = {"pictures are shown as they are": _shown_as_it_is}
