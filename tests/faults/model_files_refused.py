"""Bad adapters of many kinds: refused in one line, and the base draws on as if they had never been there."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.model_files_seeds import tiny_base
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    import torch
    from pytest import MonkeyPatch

    from pipelines.mixer import Mixer
    from studio.library import Library

LONGEST = 300  # characters of a refusal
SECONDS = 1.0  # of the processor
ENOUGH = 5  # failures, after which no more is tried
STATES = ("nothing else mounted", "beside another, fused", "beside another, unfused")


def run(task: Task, tally: Tally) -> None:
    """Mount bad adapters: each kind on an empty mix, and beside a good adapter that is in use."""
    import torch

    from studio.library import Library
    from studio.workspace import Workspace
    from tests.faults.model_files_kinds import kinds

    torch.set_num_threads(1)
    library = Library(Workspace.open(task.folder / "workspace", own=False))
    found = list(kinds().items())
    longest = 0.0
    for number in range(task.count):
        turn, which = divmod(number, len(found))
        name, (write, says) = found[which]
        state = STATES[(turn + which) % len(STATES)]
        place = task.folder / "bad"
        place.mkdir()
        began = time.process_time()
        problem = _tried(write(place), says, state, library)
        longest = max(longest, time.process_time() - began)
        tally.happened(f"{name}, {state}", problem)
        shutil.rmtree(place)
        if len(tally.failures) >= ENOUGH:
            break
    tally.measured("kinds", min(len(found), task.count))
    tally.measured("longest with drawing (s)", longest)


def _tried(path: Path, says: str, state: str, library: Library) -> str | None:
    """Mount and import a bad adapter; what wasn't as it should be."""
    from pipelines.formats import read_adapter

    before = weights()
    with _mixer(state) as mixer:
        drawn, names = _drawn(), mixer.names
        problem = _refused(lambda: mixer.add("bad", read_adapter(path)), says)
        problem = problem or _refused(lambda: _import(path, library, mixer), says)
        if mixer.names != names:
            problem = problem or f"the mix holds {mixer.names}, before it held {names}"
        if not _same(drawn, _drawn()):
            problem = problem or "what the base draws has changed"
    if not _same(before, weights()):
        problem = problem or "the base's weights have changed"
        _mend(before)
    return problem


def _refused(act: Callable[[], object], says: str) -> str | None:
    """What is wrong with how an act was refused."""
    from pipelines.errors import AdapterError

    began = time.process_time()
    try:
        act()
    except AdapterError as refusal:
        said = str(refusal)
        if "\n" in said or len(said) > LONGEST:
            return f"a refusal of {len(said)} characters: {said[:160]!r}"
        if not re.search(says, said):
            return f"it says {said[:160]!r}, wanted {says!r}"
        took = time.process_time() - began
        return f"the refusal took {took:.2f} s" if took > SECONDS else None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return "it was taken"


def _import(path: Path, library: Library, mixer: Mixer) -> None:
    """Take it into the library; one that is sound by itself is refused when it is mounted from there."""
    from pipelines.errors import AdapterError
    from studio.importing import take, take_folder
    from studio.whole import read_whole

    taken = take_folder(library, path) if path.is_dir() else take(library, [(path, path.name)])
    for name, reason in taken.refused:
        if name != path.name:
            raise AssertionError(f"the refusal is of {name!r}")
        raise AdapterError(reason)
    mixer.add("bad", read_whole(library, taken.entries[0][0]))


@contextmanager
def _mixer(state: str) -> Iterator[Mixer]:
    from pipelines.mixer import Mixer
    from tests.tiny import random_adapter

    base = tiny_base()
    route: Any = state.rpartition(" ")[2] if "," in state else "auto"
    with Mixer(base, route=route) as mixer:
        if "," in state:
            mixer.add("good", random_adapter(base))
            mixer.set({"good": 0.7})
        yield mixer


def _drawn() -> dict[str, torch.Tensor]:
    """What the base makes of a fixed noise and a fixed text, layer by layer of the text encoder."""
    import torch

    base: Any = tiny_base()
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((1, 4, 8, 8), generator=generator)
    with torch.no_grad():
        text = base.text_encoders()["text_encoder"](torch.arange(16)[None]).last_hidden_state
        made = base.unet(noise, torch.tensor([500]), encoder_hidden_states=text).sample
    return {"text": text, "picture": made}


def weights() -> dict[str, torch.Tensor]:
    """A copy of every number of the base."""
    from tests.tiny import weights_of

    return weights_of(tiny_base())


def _same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    import torch

    return before.keys() == after.keys() and all(
        torch.equal(one, after[name]) for name, one in before.items()
    )


def _mend(before: dict[str, torch.Tensor]) -> None:
    """Give the base its weights back, so that one fault isn't told as many."""
    base = tiny_base()
    for component in base.family.components:
        for name, parameter in base.component(component).named_parameters():
            parameter.data = before[f"{component}.{name}"].clone()


def _no_check(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.adapter.Adapter.check", lambda self, base: None)


def _no_numbers(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.adapter._unsound", lambda parts, alpha: None)


def _no_range(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.mixing.slots._check_range", lambda *given: None)


def _no_pairs(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.formats.reading.faults", lambda *given: iter(()))


def _in_halves(patch: MonkeyPatch) -> None:
    """Write into the base module by module, and check each when it is its turn."""
    from pipelines.mixer import Mixer

    own = Mixer.add

    def add(self: Mixer, name: str, adapter: Any) -> None:
        import torch

        layers = self.base.modules()
        for module in adapter.factors:
            if module in layers:
                with torch.no_grad():
                    layers[module].weight += 1e-3
        own(self, name, adapter)

    patch.setattr(Mixer, "add", add)


PLANTS = {
    "adapters are written in halves": _in_halves,
    "fit isn't looked at": _no_check,
    "numbers aren't looked at": _no_numbers,
    "range isn't looked at": _no_range,
    "pairs aren't looked at": _no_pairs,
}
