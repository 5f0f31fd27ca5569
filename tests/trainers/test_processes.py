"""Processes: two of them over gloo learn what one learns, and say once what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import ConfigError, StudioError
from trainers import processes as module
from trainers.batches import Batch
from trainers.config import TrainConfig
from trainers.precision import Precision
from trainers.processes import ALONE, Abandoned, Processes, joined, report
from trainers.settings import RunConfig

STEPS = 4


def batch(count: int, height: int, width: int, made: torch.Generator, share: float) -> Batch:
    """Random samples of one shape, of two streams."""
    noise = torch.randn(count, 2, height, width, generator=made)
    return Batch(
        latents=torch.randn(count, 2, height, width, generator=made),
        noise=noise,
        input_noise=noise,
        timesteps=torch.randint(0, 1000, (count,), generator=made),
        share=torch.full((count,), share) * torch.rand(count, generator=made),
        mask=torch.rand(count, 1, height, width, generator=made),
        frames=torch.zeros(count, 6, dtype=torch.long),
        captions=tuple(f"{height}-{index}" for index in range(count)),
        streams=tuple(int(index * 3 >= count * 2) for index in range(count)),
    )


def steps() -> Iterator[list[Batch]]:
    """Micro-batches of each step, as one process draws them: unequal in size and shape, one of one sample."""
    made = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        yield [batch(5, 4, 4, made, 0.1), batch(3, 2, 6, made, 0.1), batch(1, 6, 2, made, 0.2)]


def network() -> nn.Sequential:
    """What learns here; its last layer is used by large batches only."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 2, 1))


def learn(processes: Processes) -> dict[str, Any]:
    """The steps of a training as the loop takes them: (loss, norm) of each, and what was learned."""
    unet = network()
    parameters = list(unet.parameters())
    processes.copy_from_main(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    precision = Precision(RunConfig(output=Path("run")), torch.device("cpu"), torch.float32)
    told = []
    for batches in steps():
        loss = torch.zeros(())
        for part in processes.part(batches):
            predicted = unet[:3](part.latents)
            if part.latents.shape[-1] == 4:
                predicted = unet[3](predicted)
            losses = ((predicted - part.noise) ** 2 * part.mask).mean((1, 2, 3))  # (B,)
            share = (losses * part.share).sum()
            precision.backward(share)
            loss += share.detach()
        processes.sum_gradients(parameters)
        norm = precision.step(optimizer, parameters, max_norm=0.03)
        optimizer.zero_grad(set_to_none=True)
        told.append((processes.sum(loss).item(), norm.item()))
    return {"steps": told, "learned": [p.detach().flatten().tolist() for p in parameters]}


def _in_two(folder: str) -> None:
    """What each of two processes does; its findings go to a file."""
    module.BUCKET_BYTES = 100  # so that there are several
    with joined("cpu") as processes:
        found = learn(processes)
        found |= {
            "rank": processes.rank, "size": processes.size, "device": processes.device,
            "any": [processes.any(processes.rank == 1), processes.any(False)],
        }  # fmt: skip
        tensor = torch.full((2,), float(processes.rank + 7))
        processes.copy_from_main([tensor])
        found["copied"] = tensor.tolist()
        processes.check_same_step(4)
        try:
            processes.check_same_step(4 * processes.rank)
        except StudioError as error:
            found["apart"] = str(error)
        written = Path(folder) / "first.txt"
        with processes.main_first():
            found["there"] = written.exists()
            written.write_text("by the first")
        try:
            if processes.rank == 1:
                raise StudioError("the second has no memory left")
            processes.wait()
        except StudioError as error:
            found["error"] = [type(error).__name__, str(error), report(error)]
        Path(folder, f"{processes.rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    from accelerate import debug_launcher

    folder = tmp_path_factory.mktemp("two")
    debug_launcher(_in_two, (str(folder),), num_processes=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_learn_what_one_does(two: list[dict[str, Any]]) -> None:
    """Also with batches of unequal size, accumulated, one of which has nothing for the second process."""
    alone = learn(ALONE)
    assert [(one["rank"], one["size"], one["device"]) for one in two] == [(0, 2, "cpu"), (1, 2, "cpu")]
    for one in two:
        for (loss, norm), (loss_alone, norm_alone) in zip(one["steps"], alone["steps"], strict=True):
            assert loss == pytest.approx(loss_alone, rel=1e-5) and norm == pytest.approx(norm_alone, rel=1e-4)
        for learned, learned_alone in zip(one["learned"], alone["learned"], strict=True):
            assert learned == pytest.approx(learned_alone, abs=1e-5)
    # The clipping that is asked for happens, or the norm's place (before or after the sum) would not show.
    assert all(norm > 0.03 for _, norm in alone["steps"])
    assert two[0]["learned"] == two[1]["learned"], "processes have drifted apart"


def _command_in_two(folder: str) -> None:
    """The command as each of two processes runs it; what it prints goes to a file."""
    from contextlib import ExitStack, redirect_stderr, redirect_stdout

    from trainers.__main__ import main

    with ExitStack() as held:
        processes = held.enter_context(joined("cpu"))
        said = held.enter_context(open(Path(folder) / f"said-{processes.rank}.txt", "w"))
        held.enter_context(redirect_stdout(said))
        held.enter_context(redirect_stderr(said))
        code = main([str(Path(folder) / "run.toml"), "--json"])
    Path(folder, f"code-{processes.rank}.txt").write_text(str(code))


def test_the_command_in_two_processes_learns_what_it_learns_in_one(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """With pictures of the class, two batches per step, a held-out picture; the first alone writes."""
    from accelerate import debug_launcher

    from trainers import events
    from trainers.loop import train

    alone = make_config(accumulate=2, output=tmp_path / "alone", steps=3, checkpoint_every=2)
    losses = [event.data for event in train(alone) if event.kind == "step"]
    values = alone.model_copy(update={"run": alone.run.model_copy(update={"output": tmp_path / "two"})})
    lines = []
    for section, fields in values.model_dump(mode="json", exclude_none=True).items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    debug_launcher(_command_in_two, (str(tmp_path),), num_processes=2)
    assert [(tmp_path / f"code-{rank}.txt").read_text() for rank in (0, 1)] == ["0", "0"]
    told = list(events.read(tmp_path / "two"))
    together = [event.data for event in told if event.kind == "step"]
    assert [event.kind for event in told].count("done") == 1 and len(together) == 3
    for one, two in zip(losses, together, strict=True):
        for name in ("loss", "instance_loss", "prior_loss", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
    # The second process says nothing, and what is learned is the same.
    assert (tmp_path / "said-1.txt").read_text() == ""
    assert len((tmp_path / "said-0.txt").read_text().splitlines()) == len(told)
    first, second = (load_file(tmp_path / run / "adapter.safetensors") for run in ("alone", "two"))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)


def test_they_agree_copy_and_go_in_turn(two: list[dict[str, Any]]) -> None:
    assert all(one["any"] == [True, False] for one in two)
    assert all(one["copied"] == [7.0, 7.0] for one in two)
    assert [one["there"] for one in two] == [False, True]
    assert "process 1 goes on from step 4, the first one from 0" in two[1]["apart"] and "apart" in two[0]


def test_one_error_ends_both_and_is_said_once(two: list[dict[str, Any]]) -> None:
    (kind, text, speaks), (own_kind, own_text, own_speaks) = (one["error"] for one in two)
    assert (own_kind, own_speaks) == ("StudioError", True)
    assert (kind, speaks) == ("Abandoned", False) and text == own_text == "the second has no memory left"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_are_the_whole(size: int) -> None:
    batches = next(steps())
    parts = [part for rank in range(size) for part in Processes(rank, size).part(batches)]
    for whole in batches:
        captions = sorted(c for part in parts for c in part.captions if c in whole.captions)
        assert captions == sorted(whole.captions)
    share = sum(part.share.sum().item() for part in parts)
    assert share == pytest.approx(sum(whole.share.sum().item() for whole in batches), rel=1e-5)
    assert all(len(part) > 0 for part in parts)


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    Processes(1, 4).check_batch(4)
    with pytest.raises(ConfigError, match=r"run.batch_size: got 3 for 4 processes.*use 4"):
        Processes(1, 4).check_batch(3)


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with joined("cpu") as processes:
        assert processes is ALONE and processes.main and not processes.any(False)
        tensor = torch.ones(2)
        assert processes.sum(tensor) is tensor
        processes.wait()
    assert report(StudioError("alone"))


def test_one_card_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = r"run.device: got 'cuda:1' for several processes.*use 'cuda'"
    with pytest.raises(ConfigError, match=words), joined("cuda:1"):
        pass


def test_of_processes_that_fail_together_the_first_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import HashStore

    store = HashStore()
    monkeypatch.setattr(module, "_store", lambda: store)
    assert [report(ConfigError(f"process {rank}")) for rank in (0, 1, 2)] == [True, False, False]
    assert module._failure() == "process 0"


def test_who_is_left_behind_by_a_killed_process_says_so() -> None:
    assert report(Abandoned(None, RuntimeError("Connection closed by peer")))
    assert "another process has ended" in str(Abandoned(None, RuntimeError("Connection closed by peer")))
    assert not report(Abandoned("out of memory", RuntimeError("Connection closed by peer")))
