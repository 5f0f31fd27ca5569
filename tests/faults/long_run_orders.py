"""The jobs of a long run: the kinds that need nothing from elsewhere, one that is stopped, one that fails."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.load_client import Client, status_of

if TYPE_CHECKING:
    from studio.context import Context

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
FEW = {"steps": 4, "num_class_images": 2, "checkpoint_every": 2, "preview_every": 2, "prior_breadth": 0.0}
PATIENCE = 300.0  # seconds for a job


@dataclass
class Desk:
    """Where jobs are ordered: over HTTP as people and programs do, or in the index as `pigment` does.

    Attributes:
        context: the studio's workspace, opened beside it. folder: for files that are uploaded.
    """

    client: Client
    context: Context
    folder: Path

    def again(self, number: int, name: str = "mascot") -> Path:
        """An example's adapter under a name of its own, which makes it another file."""
        whole = (EXAMPLES / "adapters" / f"{name}.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        header["__metadata__"] = {**header.get("__metadata__", {}), "modelspec.title": f"Again {number}"}
        text = json.dumps(header).encode()
        target = self.folder / f"again-{number}.safetensors"
        target.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        return target

    def newest(self, kind: str, before: float) -> str:
        """The job of that kind that was queued since a moment. Raises: RuntimeError: none was."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for job in self.context.jobs.find(kind=kind, limit=1):
                if job.created >= before:
                    return job.id
            time.sleep(0.1)
        raise RuntimeError(f"no job of {kind} was queued")

    def ended(self, job: str) -> Any:
        """The job once it has ended. Raises: RuntimeError: it doesn't."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = self.context.jobs.get(job)
            if not found.active:
                return found
            time.sleep(0.3)
        raise RuntimeError(f"{found.kind} has not ended after {PATIENCE:.0f} s: {found.message}")


def _train(desk: Desk, number: int) -> str:
    asked = {"example": "mascot", "preset": "sketch", "settings": {**FEW, "seed": number}}
    return str(desk.client.call("train", **asked)["id"])


def _uploads(desk: Desk, number: int) -> str:
    pictures = desk.client.upload(sorted((EXAMPLES / "teapot").glob("*.png")))
    asked = {"pictures": pictures, "trigger": "zat", "class_name": "teapot", "settings": FEW}
    return str(desk.client.call("train", **asked)["id"])


def _generate(desk: Desk, number: int) -> str:
    asked: dict[str, Any] = {"prompt": "a photo of a zib creature", "adapters": {"mascot": 0.8}, "wait": 0}
    more = {"seed": number, "num_images": 2, "settings": {"num_inference_steps": 4}, "compare": True}
    return str(desk.client.call("generate", **asked, **more)["id"])


def _export(desk: Desk, number: int) -> str:
    asked = {"adapter": "mascot", "format": ("kohya", "diffusers", "peft")[number % 3], "wait": 0}
    return str(desk.client.call("export", **asked)["id"])


def _import(desk: Desk, number: int, whole: bool = True) -> str:
    file, before = desk.again(number), time.time()
    if not whole:
        file.write_bytes(file.read_bytes()[: 8000 + number])
    [sent] = desk.client.upload([file])
    files = [{"path": sent["path"], "name": sent["orig_name"]}]
    desk.client.press("adapters", "dropped", {"files": files})
    return desk.newest("import", before)


def _class_pictures(desk: Desk, number: int) -> str:
    context = desk.context
    config: dict[str, Any] = {
        "data": {
            "instance_images": str(EXAMPLES / "mascot"), "trigger": "zib", "num_class_images": 2,
            "class_prompt": f"a creature, number {number}", "instance_prompt": "a zib creature",
        },
        "run": {
            "output": str(context.workspace.folder("runs", f"class-{number}")),
            "cache": str(context.workspace.folder("cache")), "base": "pocket",
        },
    }  # fmt: skip
    return context.jobs.submit("class_pictures", "class pictures", config).id


def _resize(desk: Desk, number: int) -> str:
    from studio.reworking import ResizeRequest, start

    return start(desk.context, "resize", ResizeRequest(adapter="example-mascot", rank=1 + number % 4)).id


def _merge(desk: Desk, number: int) -> str:
    from studio.reworking import MergeRequest, Part, start

    weights = {"example-mascot": 1.0, "example-blueprint": 0.01 * (number + 1)}
    parts = tuple(Part(id=name, weight=weight) for name, weight in weights.items())
    return start(desk.context, "merge", MergeRequest(parts=parts, name=f"Both {number}")).id


def _stopped(desk: Desk, number: int) -> str:
    asked = {"example": "mascot", "settings": {**FEW, "steps": 5000, "preview_every": 0}}
    job = str(desk.client.call("train", **asked)["id"])
    end = time.monotonic() + PATIENCE
    while status_of(desk.client, job)["step"] < 1 and time.monotonic() < end:
        time.sleep(0.2)
    desk.context.jobs.stop(job)
    return job


def _refused(desk: Desk, number: int) -> str:
    return _import(desk, number, whole=False)


ORDERS: dict[str, tuple[Callable[[Desk, int], str], str]] = {
    "import": (_import, "done"),
    "train": (_train, "done"),
    "generate": (_generate, "done"),
    "export": (_export, "done"),
    "class_pictures": (_class_pictures, "done"),
    "resize": (_resize, "done"),
    "train, stopped": (_stopped, "cancelled"),
    "import of a broken file": (_refused, "failed"),
    "merge": (_merge, "done"),
    "train on uploaded pictures": (_uploads, "done"),
}
"""By what it is: how it is ordered, and how it ends."""
