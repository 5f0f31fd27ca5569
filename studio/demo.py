"""`pigment demo`: the whole way on the embedded base, without a page.

A subject and a style are taught from the example pictures at a preset, mixed at several weights into a
labelled grid, exported in every format and read back; what the pictures are like is measured, and everything
is said in demo.json. A demo that was interrupted is taken up where its training stood.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import BaseError, ConfigError, StudioError
from pipelines.files import write_atomic
from studio.commands.arguments import Parser
from studio.commands.base_options import BASE_HELP, find_base
from studio.demo_pictures import draw_before_after, draw_grid
from studio.trials import Trial, choose, columns
from trainers.evidence.provenance import Clock, machine, versions

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.mixer import Mixer
    from trainers.config import TrainConfig

RECORD = Path(__file__).resolve().parent.parent / "tests" / "bench" / "results" / "demo.json"

SHOWN = ("seconds", "image_similarity_base", "image_similarity_adapter", "prompt_similarity_base",
         "prompt_similarity_adapter", "export_psnr_db")  # fmt: skip


def training(trial: Trial, options: argparse.Namespace) -> TrainConfig:
    """How an example is taught. Raises: ConfigError for an unknown preset or a value out of bounds."""
    from trainers.config import preset_config

    example, runs = trial.example, Path(options.out) / "runs"
    return preset_config(
        options.preset,
        example.kind,
        instance_images=example.pictures[0].parent,
        instance_prompt=example.instance_prompt,
        class_prompt=example.class_prompt,
        captions="sidecar",
        trigger=example.trigger,
        output=runs / example.id,
        cache=runs / "class-pictures",
        name=example.id,
        base=options.base,
        **getattr(options, "kept", {}),
        seed=options.seed,
        threads=options.threads,
    )


def teach(config: TrainConfig, starter: int) -> tuple[Path, str]:
    """Train, saying how far it is; the adapter's file and its SHA-256.

    A run folder that holds a checkpoint of the same settings is taken up from there.
    starter: id of the process that asked for it. When that one is gone the training stops, so that a demo
    which takes it up meets nobody in the run folder.

    Raises: StudioError as the training does, and when the starter is gone.
    """
    from trainers.loop import train

    name, digest, said = config.run.name, "", 0.0
    for event in train(config):
        if os.getppid() != starter:
            raise StudioError(f"{name} stopped: the demo that asked for it has ended")
        if event.kind in {"stage", "warning", "done"} or time.perf_counter() - said > 5:
            said = time.perf_counter()
            print(f"  {name} {event.step:>4}/{event.total} {event.message}", flush=True)
        digest = event.data.get("sha256", digest) if event.kind == "done" else digest
    return config.run.output / "adapter.safetensors", digest


def teach_all(configs: dict[str, TrainConfig]) -> dict[str, tuple[Path, str]]:
    """Train each in a process of its own: two processes of one thread beat one process of two threads."""
    workers = min(len(configs), os.cpu_count() or 1)
    # One task each: a worker whose demo was killed ends with its task instead of waiting for another.
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        asked = {name: pool.submit(teach, config, os.getpid()) for name, config in configs.items()}
        return {name: future.result() for name, future in asked.items()}


def measure(
    base: Base, mixer: Mixer, subject: Trial, options: argparse.Namespace
) -> dict[str, float | int | None]:
    """How like the held-out pictures, and how like the prompts, the base's and the adapter's pictures are.

    The same scenes and seeds on both sides; the base is asked without the trigger, which it doesn't know, and
    both sides' pictures are judged by those plain prompts. Mean cosines, [-1, 1], of the embedded base's own
    image and text towers; None where it has none.
    """
    from PIL import Image

    from pipelines.base import quiet
    from pipelines.generate import GenerationConfig, generate_prompts
    from trainers.evidence.similarity import Judge

    names = ("image_similarity", "prompt_similarity")
    try:
        with quiet():
            judge = Judge.load()
    except BaseError as error:
        print(f"  not measured: {error}", flush=True)
        return {f"{name}_{side}": None for name in names for side in ("base", "adapter")}
    references = [Image.open(path).convert("RGB") for path in subject.held_out]
    scenes = [scene for scene in subject.scenes for _ in range(options.samples)]
    plain = [f"{subject.example.class_prompt} {scene}" for scene in scenes]
    called = [f"{subject.example.instance_prompt} {scene}" for scene in scenes]
    seeds = [options.seed + 1000 + index for index in range(len(scenes))]
    figures: dict[str, float | int | None] = {"pictures_measured": len(scenes)}
    for side, asked, weight in (("base", plain, 0.0), ("adapter", called, 1.0)):
        mixer.set(dict.fromkeys(mixer.names, 0.0) | {subject.id: weight})
        drawn = generate_prompts(base, asked, seeds, GenerationConfig(prompt=asked[0]))
        figures[f"image_similarity_{side}"] = round(judge.image_similarity(drawn, references), 4)
        figures[f"prompt_similarity_{side}"] = round(judge.prompt_similarity(drawn, plain), 4)
    return figures


def export(adapters: dict[str, Adapter], base: Base, out: Path) -> dict[str, dict[str, Any]]:
    """Write every adapter in every form that another library reads, and compare; the reports by file name."""
    from pipelines.elsewhere import LIBRARIES
    from pipelines.export import export_adapter
    from pipelines.formats import FORMATS

    reports = {}
    for name, adapter in adapters.items():
        for form in LIBRARIES:
            if not all(FORMATS[form].holds(method) for method in adapter.methods):
                continue
            path = out / (f"{name}.{form}.safetensors" if FORMATS[form].kind == "file" else f"{name}-{form}")
            report = export_adapter(adapter, path, form, base=base)
            reports[path.name] = report.as_dict() | {"path": path.name}
            print("  " + report.as_text().replace("\n", "\n  "), flush=True)
    return reports


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The demo itself; returns what demo.json says.

    Raises:
        StudioError: an example, the base or an exported file isn't what it should be.
    """
    from pipelines.base import load_base
    from pipelines.formats import read_adapter
    from pipelines.mixer import Mixer

    subject, style = choose("subject", options.subject), choose("style", options.style)
    if options.samples < 1:
        raise ConfigError(f"samples is {options.samples}, expected 1 or more")
    out, clock, start = Path(options.out), Clock(), time.perf_counter()
    configs = {trial.id: training(trial, options) for trial in (subject, style)}
    with clock.stage("load"):
        run = configs[subject.id].run
        base = load_base(
            run.base, config=run.configs or None, prediction_type=run.prediction_type
        )  # fmt: skip
    resumed = _begin(out, options.fresh)
    print(f"teaching {subject.example.title}, and {style.example.title}", flush=True)
    with clock.stage("train"):
        trained = teach_all(configs)
    adapters = {name: read_adapter(file) for name, (file, _) in trained.items()}
    with Mixer(base) as mixer:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
        print(f"drawing {len(columns(subject, style))} prompts at several mixes", flush=True)
        with clock.stage("grid"):
            draw_grid(base, mixer, subject, style, options.seed).save(out / "grid.png")
            for trial in (subject, style):
                draw_before_after(base, mixer, trial, options.seed).save(out / f"{trial.id}-before-after.png")
        print("measuring the subject against pictures it was never taught", flush=True)
        with clock.stage("measure"):
            figures = measure(base, mixer, subject, options)
    print("exporting, reading back, comparing", flush=True)
    with clock.stage("export"):
        reports = export(adapters, base, out)
    worst = min((report["psnr_db"] for report in reports.values()), key=float)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(sum(clock.cpu.values()), 1),
        **figures,
        "export_psnr_db": worst if worst == "inf" else round(worst, 1),
        "export": reports,
        "adapters": {name: {"file": file.name, "sha256": digest} for name, (file, digest) in trained.items()},
        "stages": {"wall_seconds": clock.wall, "cpu_seconds": clock.cpu},
        "resumed": resumed,
        "preset": options.preset,
        "seed": options.seed,
        "base_sha256": base.sha256,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "command": command_line(options),
    }


def _begin(out: Path, fresh: bool = False) -> bool:
    """Make the folder ready; whether an interrupted demo is taken up. One that ended is begun anew."""
    out.mkdir(parents=True, exist_ok=True)
    if fresh or (out / "demo.json").exists():
        shutil.rmtree(out / "runs", ignore_errors=True)
        (out / "demo.json").unlink(missing_ok=True)
    return (out / "runs").exists()


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = Parser(
        prog="pigment demo",
        description="Teach a subject and a style, mix, export and measure them, on the embedded base.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--out", default="demo", help="folder for the grid, the files and demo.json")
    made.add_argument("--seed", type=int, default=0, help="seed of the trainings and the pictures")
    made.add_argument("--preset", default="sketch", help="how long to teach: sketch, standard or thorough")
    made.add_argument("--subject", default="mascot", help="example subject")
    made.add_argument("--style", default="blueprint", help="example style")
    made.add_argument("--base", default="pocket", help=BASE_HELP)
    made.add_argument(
        "--threads", type=int, default=1, help="of each of the two trainings; 1 is repeatable bit for bit"
    )
    made.add_argument("--samples", type=int, default=4, help="pictures per scene that are measured")
    made.add_argument("--fresh", action="store_true", help="forget an interrupted demo instead of going on")
    made.add_argument("--record", action="store_true", help="keep demo.json in tests/bench/results too")
    return made


def command_line(options: argparse.Namespace) -> str:
    """The command that was given, without folders: only what differs from the defaults."""
    words = ["pigment", "demo"]
    for name, default in vars(parser().parse_args([])).items():
        given = getattr(options, name)
        if given != default and name not in {"out", "base", "fresh"}:
            words += [f"--{name}"] if given is True else [f"--{name}", str(given)]
    return " ".join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo for a command line; 0, or 2 after one line that says what to do."""
    options = parser().parse_args(argv)
    try:
        options.base, options.kept = find_base(options.base)
        report = run(options)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        write_atomic(Path(options.out) / "demo.json", [text.encode()])
        for name in SHOWN:
            print(f"{name:26} {report[name]}")
        print(f"look at {Path(options.out) / 'grid.png'}")
        if options.record:
            _record(report, text)
    except StudioError as error:
        print(f"pigment demo: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"pigment demo: {error}; choose another folder with --out", file=sys.stderr)
        return 2
    return 0


def _record(report: dict[str, Any], text: str) -> None:
    """Keep the figures in the repository. Raises: ConfigError for a demo whose seconds mean nothing."""
    if report["resumed"]:
        raise ConfigError("not recorded: this demo was taken up again, its time says nothing; run it again")
    if not RECORD.parent.parent.is_dir():
        raise ConfigError("not recorded: there is no tests/bench beside this Pigment; run it from a clone")
    RECORD.parent.mkdir(exist_ok=True)
    write_atomic(RECORD, [text.encode()])


if __name__ == "__main__":
    sys.exit(main())
