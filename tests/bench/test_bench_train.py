"""`pigment bench train` runs whole with tiny numbers; nothing here asserts a time."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from pipelines.errors import ConfigError
from trainers import memory
from trainers.bench import (
    kohya,
    train,
    train_cases,
    train_clock,
    train_mechanisms,
    train_models,
    train_pigment,
    train_report,
    train_ways,
)
from trainers.bench.train_turns import Turn, compared, figures_of, per_step, take_turn, turns
from trainers.bench.train_ways import Case, Launch, Way, diffusers, find_script, pigment
from trainers.config import load_config

SCRIPT = """
import argparse, json, os, sys
from pathlib import Path

import torch
from torchvision import transforms
from torchvision.transforms.functional import crop

parser = argparse.ArgumentParser()
for name in (
    "pretrained_model_name_or_path instance_data_dir instance_prompt output_dir resolution train_batch_size "
    "rank learning_rate lr_scheduler lr_warmup_steps max_train_steps checkpointing_steps seed mixed_precision"
).split():
    parser.add_argument("--" + name, required=True)
for name in ("center_crop", "pre_compute_text_embeddings", "gradient_checkpointing"):
    parser.add_argument("--" + name, action="store_true")
args = parser.parse_args()
assert __name__ == "__main__" and sys.path[0] == str(Path(__file__).parent)
assert transforms.Compose and crop
assert sorted(Path(args.instance_data_dir).iterdir())
weight = torch.nn.Parameter(torch.zeros(3, int(args.rank)))
optimizer = torch.optim.AdamW([weight])
for step in range(int(args.max_train_steps)):
    weight.grad = torch.ones_like(weight)
    optimizer.step()
raise SystemExit("went on after the last step")
"""


def _case(tmp_path: Path, **changes: object) -> Case:
    given = Case(
        model=tmp_path / "model", family="sd15", pictures=tmp_path, batch=2, resolution=32, rank=4,
        dtype="fp32", device="cpu", steps=4, threads=1,
    )  # fmt: skip
    return replace(given, **changes)  # type: ignore[arg-type]


def _turn(step_s: float, *, first: float = 2.0, cpu: float = 0.5, peak: int = 100) -> Turn:
    return Turn(first, first / 2, (step_s, step_s), cpu, {"peak_bytes": peak, "trained": 7})


def _says(text: str) -> Way:
    """A way that only runs a line of Python; {figures} in it is the file of its figures."""

    def launch(case: Case, folder: Path, figures: Path) -> Launch:
        line = text.replace("{figures}", repr(str(figures)))
        return Launch(command=(sys.executable, "-S", "-E", "-c", line))

    return launch


_GOOD = (
    "import json; json.dump({'times': [9.0, 9.5, 10.0, 11.0], 'cpu': [3.0, 3.5, 4.0, 6.0], 'peak_bytes': 5}, "
    "open({figures}, 'w'))"
)


# ── One command, whole


def test_it_measures_in_turns_and_records_beside_what_was_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "bench" / "results" / "train.json"
    record.parent.mkdir(parents=True)
    name = f"{tiny_folder.name}-1threads"
    before = {"date": "then", "batches": {"1": {"date": "then"}}}
    kept = {"models": {"other": before, name: before}}
    record.write_text(json.dumps(kept))
    monkeypatch.setattr(train, "RECORD", record)
    ways = {"pigment": _says(_GOOD), "theirs": _says(_GOOD), "broken": _says("raise ValueError('why')")}
    out, there = tmp_path / "out.json", list[bool]()

    def baselines(options: object, family: str) -> dict[str, Way]:
        there.append(out.exists())
        return ways

    monkeypatch.setattr(train, "baselines", baselines)
    caches: list[Path] = []

    def ours(*, cache: Path) -> Way:
        caches.append(cache)
        return _says(_GOOD)

    monkeypatch.setattr(train_ways, "pigment", ours)
    argv = ["--model", str(tiny_folder), "--device", "cpu", "--threads", "1", "--batch", "2", "--batch", "4",
            "--warm-up", "2", "--steps", "2", "--rounds", "2", "--record", "--again",
            "--diffusers", str(tmp_path), "--out", str(out)]  # fmt: skip
    assert train.main(argv) == 0
    report = json.loads(record.read_text())
    assert there == [False, True]  # each case's figures are on the disk before the next one begins
    assert report["models"]["other"] == before  # its figures aren't of today
    assert "other" not in json.loads(out.read_text())["models"]
    batches = report["models"][name]["batches"]
    assert set(batches) == {"1", "2", "4"} and batches["1"] == {"date": "then"}
    figures = batches["4"]
    assert (figures["batch"], figures["resolution"], figures["family"]) == (4, 16, "sd15")
    assert figures["pigment"]["steps_per_s"] == pytest.approx(1 / 0.75, rel=1e-3)
    # Both batch sizes: a run, and a second one with its cache.
    assert len(caches) == 4 and len(set(caches)) == 2
    assert figures["pigment"]["first_step_again_cpu_s"] == 3.0
    assert figures["baselines"]["theirs"]["ratio_spread"] == [1.0, 1.0]
    assert figures["baselines"]["broken"] == {"failed": "ended with 1: ValueError: why"}
    assert str(tmp_path) not in json.dumps(report)
    assert f"--diffusers {tmp_path.name}" in figures["command"]
    shown = capsys.readouterr().out
    assert f"{name}, batch 2" in shown and "1.00 (1.00 to 1.00) × its steps/s" in shown


def test_a_script_is_clocked_unmodified_and_ends_with_its_last_step(tmp_path: Path) -> None:
    script, pictures = tmp_path / "train_dreambooth_lora.py", tmp_path / "pictures"
    script.write_text(SCRIPT)
    pictures.mkdir()
    (pictures / "one.png").touch()
    case = _case(tmp_path, pictures=pictures)
    turn = take_turn(diffusers(script, cached_text=True), case, warm_up=1, timeout=200)
    assert not turn.failed
    assert turn.step_s and all(seconds > 0 for seconds in turn.step_s)
    assert turn.first_step_s > 0 < turn.first_step_cpu_s
    found = dict(turn.found)
    assert found["peak_bytes"] == found["resident_bytes"] > 2**26
    said = {name: found[name] for name in ("trained", "trained_dtype", "optimizer", "threads", "device")}
    assert said == {"trained": 3 * 4, "trained_dtype": "float32", "optimizer": "AdamW", "threads": 1,
                    "device": "cpu"}  # fmt: skip


def test_our_training_is_clocked_by_its_step_events(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = train_models.write_pictures(tmp_path / "pictures", 2, 16)
    case = _case(tmp_path, model=tiny_folder, pictures=pictures, resolution=16, steps=3)
    figures = tmp_path / "figures.json"
    launch = pigment({"run.steps": 5})(case, tmp_path, figures)
    assert launch.command[1:3] == ("-m", "trainers.bench.train_pigment")
    ended: list[int] = []
    monkeypatch.setattr(sys, "argv", list(launch.command[2:]))
    monkeypatch.setattr(train_clock.os, "_exit", ended.append)
    monkeypatch.setattr(train_pigment.events, "append", train_pigment.events.append)
    # What was held before the run's own gauge began counts too, as it does for other scripts.
    held = [9 * 2**40]
    monkeypatch.setattr(memory.Peak, "__init__", memory.Peak.__init__)
    monkeypatch.setattr(memory, "_forget_peak", lambda: held.append(7))
    monkeypatch.setattr(train_clock, "_resident", lambda: held[-1])
    assert train_pigment.main() == 0
    assert held[-1] == 7
    assert set(ended) == {0} and len(ended) == 3  # at the 3rd of 5 steps; a process would be gone then
    found = json.loads(figures.read_text())
    assert found["peak_bytes"] == found["resident_bytes"] == held[0]
    assert len(found["times"]) == len(found["cpu"]) == 5
    assert found["times"] == sorted(found["times"])
    assert (found["trained_dtype"], found["optimizer"]) == ("float32", "AdamW")
    assert found["trained"] > 0 and isinstance(found["notes"], list)
    assert train_clock.describe(torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))]))["trained"] == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--steps", "1"], "--steps is 1; give at least 2"),
        (["--rounds", "0"], "--rounds is 0; give at least 1"),
        (["--batch", "3"], "batch 3 doesn't divide the 8 pictures"),
        (["--case", "pocket"], "--case is 'pocket'; give a model and a batch size"),
        (["--case", "pocket:1", "--batch", "2"], "leave --model and --batch out"),
        (["--model", "sdxl", "--device", "cpu"], "needs a CUDA device; add --small"),
        (["--device", "cpu", "--dtype", "bf16"], "a CPU trains in fp32; leave it out"),
        (["--device", "cpu", "--cap-gib", "8"], "--cap-gib limits a CUDA card"),
        (["--device", "tpu"], "--device is 'tpu'; give cpu or cuda"),
        (["--device", "cpu", "--pictures", "100"], "there are 34 of them"),
        (["--device", "cpu", "--diffusers", "{empty}"], "there is no train_dreambooth_lora.py in"),
        (["--device", "cpu", "--kohya", "{empty}"], "there is no train_network.py"),
        (["--counts", "--sizes"], "--counts and --sizes are two measurements; give one"),
        (["--counts", "--small"], "--small changes nothing with --counts; leave it out"),
        (["--sizes", "--dtype", "bf16"], "--dtype changes nothing with --sizes; leave it out"),
        (["--device", "cpu", "--dtype", "int8"], "--dtype is 'int8'; give fp32, bf16 or fp16"),
        (["--kohya-python", "python"], "give its checkout with --kohya too"),
        (["--model", "nowhere", "--device", "cpu"], "no such folder"),
    ],
)
def test_refusals_are_one_line(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([word.format(empty=tmp_path) for word in argv]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1


def test_counts_have_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainers.counting import steps

    asked: list[object] = []

    def count(models: tuple[str, ...], batches: tuple[int, ...]) -> dict[str, object]:
        asked.append((models, batches))
        return {"sd15 batch 1": {"pigment": {"flops": 123456789}, "ratios": {"flops": 0.61234}}}

    monkeypatch.setattr(steps, "count_steps", count)
    monkeypatch.setattr(train, "RECORD", tmp_path / "results" / "train.json")
    monkeypatch.setattr(train, "COUNTS", tmp_path / "results" / "counts.json")
    assert train.main(["--counts", "--record"]) == 0
    assert train.main(["--counts", "--model", "sdxl", "--batch", "2"]) == 0
    assert asked == [(steps.MODELS, (1, 4)), (("sdxl",), (2,))]
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["counts.json"]
    kept = json.loads((tmp_path / "results" / "counts.json").read_text())
    assert kept["command"] == "pigment bench train --counts --record"
    assert kept["models"]["sd15 batch 1"]["pigment"] == {"flops": 123456789}
    assert "flops 1.235e+08" in capsys.readouterr().out
    assert train.main(["--counts", "--model", "pocket"]) == 2
    assert "--counts has no model 'pocket'" in capsys.readouterr().err


def test_sizes_stay_beside_the_models_other_figures(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainers.bench import sizes

    asked: list[tuple[list[int], sizes.Plan]] = []

    def measure(counts: list[int], plan: sizes.Plan) -> dict[str, object]:
        asked.append((counts, plan))
        return {"2": {"step_s": 0.5}, "ratios": {"step": 1.01234}}

    record = tmp_path / "results" / "train.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"models": {tiny_folder.name: {"batches": {"1": {"x": 1}}}}}))
    monkeypatch.setattr(sizes, "measure_sizes", measure)
    monkeypatch.setattr(train, "RECORD", record)
    argv = ["--model", str(tiny_folder), "--device", "cpu", "--steps", "3", "--rounds", "2", "--batch", "2"]
    assert train.main([*argv, "--sizes", "2,20", "--record"]) == 0
    ((counts, plan),) = asked
    assert counts == [2, 20]
    assert (plan.base, plan.resolution, plan.batch, plan.steps, plan.rounds) == (
        str(tiny_folder),
        16,
        2,
        3,
        2,
    )
    kept = json.loads(record.read_text())["models"][tiny_folder.name]
    assert kept["batches"] == {"1": {"x": 1}} and kept["sizes"]["ratios"] == {"step": 1.012}
    assert "--sizes 2,20" in kept["sizes"]["command"]
    assert "step 1.012" in capsys.readouterr().out
    assert train.main([*argv, "--sizes", "7"]) == 2
    assert "--sizes is '7'; give two numbers" in capsys.readouterr().err
    assert train.parser().parse_args(["--sizes"]).sizes == "10,10000"


# ── What every way is given


def test_our_config_asks_for_the_same_work(tmp_path: Path) -> None:
    case = _case(tmp_path, checkpointing=True)
    launch = pigment({"run.without": ["flat"]})(case, tmp_path, tmp_path / "figures.json")
    assert launch.command[-1] == str(tmp_path / "config.json")
    config = load_config(launch.command[-1])
    adapter, run, data = config.adapter, config.run, config.data
    assert (adapter.method, adapter.rank, adapter.alpha, adapter.text_targets) == ("lora", 4, 4, "none")
    assert adapter.unet_targets == "attention"
    assert (run.batch_size, run.steps, run.preview_every, run.evaluate_every) == (2, 4, 0, 0)
    assert run.checkpoint_every > run.steps
    assert (run.gradient_checkpointing, run.without) == ("all", ("flat",))
    assert (data.prior_weight, data.resolution, data.buckets, data.flip) == (0, 32, False, False)
    assert (config.optimizer.optimizer, config.optimizer.schedule, config.optimizer.warmup_steps) == (
        "adamw", "constant", 0)  # fmt: skip
    assert config.optimizer.learning_rate == case.learning_rate
    assert pigment()(case, tmp_path, tmp_path).command != launch.command or run.without
    fresh = load_config(pigment()(_case(tmp_path), tmp_path, tmp_path).command[-1])
    assert fresh.run.without == () and fresh.run.gradient_checkpointing != "all"


def test_the_script_of_the_family_gets_the_same_numbers(tmp_path: Path) -> None:
    for name in ("train_dreambooth_lora.py", "train_dreambooth_lora_sdxl.py"):
        file = tmp_path / "examples" / "dreambooth" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    case = _case(tmp_path, dtype="bf16", cap_bytes=5)
    command = diffusers(tmp_path)(case, tmp_path, tmp_path / "f.json").command
    assert command[2:6] == (
        str(tmp_path / "f.json"),
        "4",
        "5",
        str(file.with_name("train_dreambooth_lora.py")),
    )
    given = dict(pairwise(command))
    assert (given["--rank"], given["--train_batch_size"], given["--resolution"]) == ("4", "2", "32")
    assert (given["--mixed_precision"], given["--lr_warmup_steps"]) == ("bf16", "0")
    assert int(given["--max_train_steps"]) > case.steps < int(given["--checkpointing_steps"])
    assert "--gradient_checkpointing" not in command and "--pre_compute_text_embeddings" not in command
    xl = _case(tmp_path, family="sdxl", checkpointing=True)
    command = diffusers(tmp_path, cached_text=True)(xl, tmp_path, tmp_path / "f.json").command
    assert command[5].endswith("_sdxl.py")
    assert command[-2:] == ("--pre_compute_text_embeddings", "--gradient_checkpointing")
    # Either script's own path finds the other, as does the folder.
    assert find_script(file, "train_dreambooth_lora.py") == file.with_name("train_dreambooth_lora.py")
    assert find_script(file.parent, file.name) == file
    with pytest.raises(ConfigError, match=r"there is no else\.py"):
        find_script(tmp_path, "else.py")


def test_another_python_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks").mkdir()
    for name in ("train_network.py", "networks/lora.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    given: list[str] = []
    monkeypatch.setattr(kohya, "kohya", lambda script, python: given.append(python))
    for said in ("./python", None):
        options = train.parser().parse_args(["--kohya", ".", *(["--kohya-python", said] if said else [])])
        assert list(train_cases.baselines(options, "sd15")) == ["pigment", "kohya"]
    assert given == [str(tmp_path / "python"), ""]
    options.kohya_python = "./none"
    with pytest.raises(ConfigError, match=r"no program './none'"):
        train_cases.baselines(options, "sd15")


def test_pictures_have_the_size_that_is_learned(tmp_path: Path) -> None:
    folder = train_models.write_pictures(tmp_path / "made", 3, 24)
    files = sorted(folder.iterdir())
    assert [Image.open(file).size for file in files] == [(24, 24)] * 3
    assert len({file.read_bytes() for file in files}) == 3


# ── Turns


def test_a_turn_that_fails_says_why_and_isnt_tried_again(tmp_path: Path) -> None:
    case = _case(tmp_path)
    ways = {"a": _says(_GOOD), "b": _says("raise ValueError('no room for it')")}
    taken = list(turns(ways, case, rounds=3, warm_up=2, deadline=None, timeout=60))
    assert [name for name, _ in taken] == ["a", "b", "a", "a"]
    good, bad = taken[0][1], taken[1][1]
    assert bad.failed == "ended with 1: ValueError: no room for it"
    assert good.step_s == (0.5, 1.0) and good.cpu_s == pytest.approx((6.0 - 3.5) / 2)
    assert good.first_step_cpu_s == 3.0 and good.peak_bytes == 5
    assert figures_of([bad]) == compared([good], [bad]) == {"failed": bad.failed}
    assert "ratio" not in compared([bad], [good])
    slow = take_turn(_says("import time; time.sleep(60)"), case, 1, timeout=0.2)
    assert slow.failed.startswith("ended with 124")


def test_every_other_round_goes_the_other_way_and_none_begins_too_late(tmp_path: Path) -> None:
    case, ways = _case(tmp_path), {"a": _says(_GOOD), "b": _says(_GOOD)}
    names = [name for name, _ in turns(ways, case, rounds=3, warm_up=1, deadline=None, timeout=60)]
    assert names == ["a", "b", "b", "a", "a", "b"]
    late = turns(ways, case, rounds=3, warm_up=1, deadline=time.monotonic() - 1, timeout=60)
    assert [name for name, _ in late] == ["a", "b"]


def test_steps_that_are_told_at_once_share_their_time() -> None:
    assert per_step([1.0, 2.0, 4.0, 5.0], 1) == [1.0, 2.0, 1.0]
    assert per_step([1.0, 2.0, 4.0, 5.0], 2) == [2.0, 1.0]
    # Told after the 1st, the 4th and the 7th step: three steps in 3 s, then three in 6 s.
    times = [1.0, 4.0, 4.001, 4.002, 10.0, 10.001, 10.002]
    assert per_step(times, 1) == pytest.approx([3.002 / 3, 2.0])
    assert per_step(times, 3) == pytest.approx([2.0])
    assert per_step(times, 6) == pytest.approx([2.0])
    # A warm-up of half a minute doesn't make one burst of all that comes after it.
    times = [0.0, 30.0, *(30.0 + 0.01 * step for step in range(1, 61))]
    assert per_step(times, 3) == pytest.approx([0.01] * 59)


def test_ratios_are_those_of_the_rounds() -> None:
    ours = [_turn(1.0), _turn(2.0, peak=90), _turn(1.0, first=1.0)]
    theirs = [_turn(3.0), _turn(4.0, peak=180), _turn(5.0, first=4.0)]
    found = compared(ours, theirs)
    assert (found["ratio"], found["ratio_spread"]) == (3.0, [2.0, 5.0])
    assert (found["peak_ratio"], found["peak_ratio_spread"]) == (1.0, [0.5, 1.0])
    assert (found["first_step_ratio"], found["first_step_ratio_spread"]) == (1.0, [0.25, 1.0])
    assert (found["steps_per_s"], found["peak_bytes"], found["trained"]) == (0.25, 180, 7)
    assert "reserved_ratio" not in found
    on_card = Turn(1.0, 1.0, (1.0,), 1.0, {"peak_bytes": 1, "reserved_bytes": 30})
    more = replace(on_card, found={"peak_bytes": 1, "reserved_bytes": 40})
    assert compared([on_card], [more])["reserved_ratio"] == 0.75


def test_ratios_of_unlike_work_say_so() -> None:
    ours, same = _turn(1.0), _turn(2.0)
    half = replace(same, found={**same.found, "trained": 9, "trained_dtype": "bfloat16"})
    assert "unlike" not in compared([ours], [same])
    found = compared([ours], [half])
    assert found["unlike"] == {"trained": [7, 9], "trained_dtype": [None, "bfloat16"]}
    shown = train_report.lines("m", 1, {"pigment": figures_of([ours]), "baselines": {"b": found}})
    assert any(line.strip() == "not alike: its trained is 9, ours 7" for line in shown)
    plain = train_report.lines(
        "m", 1, {"pigment": figures_of([ours]), "baselines": {"b": compared([ours], [same])}}
    )
    assert not any("not alike" in line for line in plain)


# ── Mechanisms


def test_a_mechanism_gains_what_its_absence_costs(tmp_path: Path) -> None:
    found = train_mechanisms.gains([_turn(1.0), _turn(1.0)], [_turn(1.5, peak=150), _turn(2.5, cpu=1.0)])
    assert (found["gain"], found["gain_spread"]) == (2.0, [1.5, 2.5])
    assert (found["cpu_gain"], found["peak_gain"], found["first_step_gain"]) == (1.5, 1.25, 1.0)
    assert train_mechanisms.gains([_turn(1.0)], [Turn(failed="why")]) == {"failed": "why"}


def test_only_mechanisms_that_act_are_left_out(tmp_path: Path) -> None:
    from trainers.settings.run import MECHANISMS

    assert set(MECHANISMS) <= set(train_mechanisms.SWITCHES)
    on_cpu = train_mechanisms.switches(_case(tmp_path))
    assert {"layers", "flat", "graph"} <= set(on_cpu)
    assert not {"readings", "half_precision", "threads"} & set(on_cpu)
    on_card = train_mechanisms.switches(_case(tmp_path, device="cuda", dtype="bf16", threads=2))
    assert {"graph", "readings", "half_precision", "no_recomputing"} <= set(on_card)
    assert "threads" not in on_card and "threads" in train_mechanisms.switches(_case(tmp_path, threads=2))
    assert "no_recomputing" not in train_mechanisms.switches(_case(tmp_path, checkpointing=True))
    for name, way in {**on_cpu, **on_card}.items():
        config = load_config(way(_case(tmp_path), tmp_path, tmp_path).command[-1])
        plain = load_config(pigment()(_case(tmp_path), tmp_path, tmp_path).command[-1])
        assert config.run != plain.run, name


def test_encoding_is_timed_on_the_batch(tiny_folder: Path, tmp_path: Path) -> None:
    found = train_mechanisms.encoding(_case(tmp_path, model=tiny_folder), 3)
    assert {name: len(each) for name, each in found.items()} == {"pictures": 3, "prompts": 3}
    assert all(ms > 0 for each in found.values() for ms in each)


def test_encoding_that_fails_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = type("Done", (), {"returncode": 1, "stdout": "", "stderr": "Traceback\nRuntimeError: no room\n"})
    monkeypatch.setattr(train_mechanisms.subprocess, "run", lambda *_, **__: failed)
    found = train_mechanisms.cache_gains(_case(tmp_path), [_turn(1.0)])
    said = "timing the encoding ended with 1: RuntimeError: no room"
    assert found == {"latent_cache": {"failed": said}, "text_cache": {"failed": said}}
    shown = train_report.lines("m", 1, {"pigment": figures_of([_turn(1.0)]), "mechanisms": found})
    assert said in shown[-1]


# ── The report


def test_what_isnt_measured_again_stays() -> None:
    kept = {"batches": {"1": {"date": "d", "command": "c", "pigment": {"x": 1},
        "baselines": {"old": {"ratio": 2}, "new": {"failed": "oom"}}}, "4": {"y": 1}}}  # fmt: skip
    row = {"date": "e", "command": "f", "pigment": {"x": 2}, "baselines": {"new": {"ratio": 3}}}
    found = train_report.merged(kept, {"batches": {"1": row}})
    batch = found["batches"]["1"]
    assert batch["baselines"] == {"old": {"ratio": 2, "date": "d", "command": "c"}, "new": {"ratio": 3}}
    assert (batch["pigment"], batch["date"]) == ({"x": 2}, "e")
    assert found["batches"]["4"] == {"y": 1} and train_report.merged({}, kept) == kept


# ── The stand-in


def _stand_in() -> ModuleType:
    file = Path(train_clock.__file__).parent / "stand_ins" / "torchvision.py"
    spec = importlib.util.spec_from_file_location("stand_in_for_a_test", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stand_in_does_what_its_names_say() -> None:
    stand_in = _stand_in()
    picture = Image.effect_noise((20, 10), 90).convert("RGB")
    lanczos = stand_in.InterpolationMode.LANCZOS
    resized = stand_in.Resize(5, interpolation=lanczos)(picture)
    assert resized.tobytes() == picture.resize((10, 5), Image.Resampling.LANCZOS).tobytes()
    assert stand_in.Resize(10, interpolation=lanczos)(picture) is picture
    assert stand_in.CenterCrop(10)(picture).tobytes() == picture.crop((5, 0, 15, 10)).tobytes()
    top, left, height, width = stand_in.RandomCrop.get_params(picture, (4, 6))
    assert (height, width) == (4, 6) and 0 <= top <= 6 and 0 <= left <= 14
    assert stand_in.RandomCrop(10)(picture).size == (10, 10)
    assert stand_in.RandomCrop.get_params(picture, (10, 20)) == (0, 0, 10, 20)
    flipped = stand_in.RandomHorizontalFlip(p=1.0)(picture)
    assert flipped.tobytes() == picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert stand_in.RandomHorizontalFlip(p=0.0)(picture) is picture
    values = stand_in.Compose([stand_in.ToTensor(), stand_in.Normalize([0.5], [0.5])])(picture)
    assert values.shape == (3, 10, 20) and values.dtype == torch.float32
    by_hand = torch.tensor(list(picture.getpixel((3, 2)))) / 255 * 2 - 1
    assert torch.allclose(values[:, 2, 3], by_hand)
