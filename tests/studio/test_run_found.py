"""What was found out about a run on its card: the step, faults, copies, ranks; and what its buttons do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

gradio = pytest.importorskip("gradio")

from studio import attached, reworking, taking, teaching  # noqa: E402
from studio.context import Context  # noqa: E402
from studio.jobs import Job  # noqa: E402
from studio.tabs import run_card, run_end, run_found, teach_run  # noqa: E402
from trainers.evidence.record import (  # noqa: E402
    Anatomy,
    Block,
    Choice,
    Finding,
    Loss,
    Measured,
    Memorisation,
    Pair,
    Record,
    Seen,
    write_record,
)
from trainers.evidence.rules import WELL  # noqa: E402

HOSTILE = "<img src=x onerror=alert(1)>\"'{{constructor}}${alert(1)}`\\"
CHOICE = Choice(step=4, last=8, rule="held_out", reason="Step 4 has the lowest loss.")
ANATOMY = Anatomy(
    blocks=(Block(name="mid", modules=1, norm=1.0, share=1.0),), norm=1.0, text_share=0.0, rank=16,
    rank_95=3, rank_99=5, error_95=0.2, error_99=0.1,
)  # fmt: skip
Made = Callable[..., Job]


def measured(step: int, loss: float) -> Measured:
    return Measured(step=step, losses={"held_out": Loss(mean=loss)})


RECORD = Record(measured=(measured(0, 0.5), measured(4, 0.3), measured(8, 0.4)), choice=CHOICE)


def write_small(path: Path, step: int) -> None:
    """An adapter of one module, written without torch."""
    module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    down, up = np.full((1, 32), step, np.float16), np.ones((32, 1), np.float16)
    alpha = np.array(1, np.float16)
    save_file(
        {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": alpha}, path
    )


@pytest.fixture
def run(context: Context, filled: str) -> Made:
    """A run of eight steps with candidates of 4 and 8: `run(state, record)`."""

    def made(state: str = "done", record: Record | None = None, taken: int = 8) -> Job:
        asked = teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc", advanced={"run.steps": 8})
        job = teaching.start(context, asked)
        folder = context.jobs.folder(job)
        (folder / "candidates").mkdir(parents=True)
        for step in (4, 8):
            write_small(folder / "candidates" / f"step-{step:06d}.safetensors", step)
        lines: list[dict[str, Any]] = [
            {"kind": "measured", "step": one.step, "data": {**one.model_dump(mode="json"), "chosen": 4}}
            for one in RECORD.measured
        ]
        lines += [
            {
                "kind": "preview",
                "step": step,
                "data": {"files": [f"previews/{step}.png"], "prompts": ["a zuv"]},
            }
            for step in (0, 4, 8)
        ]
        lines.append({"kind": "step", "step": 8, "total": 8, "data": {"loss": 0.1}})
        result = {}
        if state == "done":
            shutil.copy(
                folder / "candidates" / f"step-{taken:06d}.safetensors", folder / "adapter.safetensors"
            )
            lines.append({"kind": "done", "step": 8, "total": 8, "data": {"step": taken}})
            entry, _ = context.library.add(folder / "adapter.safetensors", name="zuv", job=job.id)
            result = {"adapter": entry.id}
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if record is not None:
            write_record(folder, record)
        with context.workspace.write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, result = ? WHERE id = ?", (state, json.dumps(result), job.id)
            )
        return context.jobs.get(job.id)

    return made


def press(context: Context, act: str, job: Job, **about: Any) -> Any:
    return teach_run.acting(context)(SimpleNamespace(act=act, id=job.id, **about))


def test_while_it_runs_the_best_so_far_is_told(context: Context, run: Made) -> None:
    job = run("running")
    found = run_card.pieces(context, job.id)
    assert "best so far: step 4" in found["status"]
    assert '<figure class="chosen"><img src="files/preview/' in found["strip"]
    assert ">step 4</text>" in found["chart"] and "pictures it hasn&#x27;t seen" in found["chart"]
    assert found["end"] == found["found"] == ""


def test_the_recommended_step_is_said_with_its_reason(context: Context, run: Made) -> None:
    job = run(record=RECORD, taken=4)
    found = run_card.pieces(context, job.id)
    assert "<h4>Step 4 is recommended</h4>" in found["end"]
    assert "Step 4 has the lowest loss. The adapter is of it." in found["end"]
    assert "Take step 4" not in found["end"] and 'data-step="8"' in found["end"]
    assert 'after="files/preview/' in found["end"] and WELL in found["end"]
    assert "The adapter is of step 8." in run_card.pieces(context, run(record=RECORD).id)["end"]


def test_a_run_that_ended_early_is_judged_by_what_it_had_measured(context: Context, run: Made) -> None:
    job = run("cancelled")
    found = run_end.end(context, job, context.run_log(job))
    assert found.step == 4 and found.record is None
    assert "It ended early, at step 8 of 8. At step 4" in found.html and ">Take step 4<" in found.html


def test_a_record_that_cant_be_read_is_said(context: Context, run: Made) -> None:
    job = run()
    (context.jobs.folder(job) / "evidence.json").write_text("{")
    assert "can&#x27;t be read" in run_card.pieces(context, job.id)["end"]


def test_a_step_is_an_adapter_at_once(context: Context, run: Made) -> None:
    job = run(record=RECORD)
    press(context, "take", job, step="4")
    assert len(context.jobs.find()) == 1, "no job is needed"
    job = context.jobs.get(job.id)
    entry = taking.taken_steps(context, job)[4]
    assert (entry.name, entry.job, entry.cover) == ("zuv, step 4", job.id, f"preview/{job.id}/4.png")
    assert "Step 4 is in the library" in run_card.pieces(context, job.id)["end"]
    known = attached.record(context, entry.id)
    assert known is not None and known.choice == CHOICE, "its evidence came with it"
    context.library.trash(entry.id)
    assert "Step 4 is in the library" not in run_card.pieces(context, job.id)["end"]


def test_faults_say_what_to_change(context: Context, run: Made) -> None:
    bad = Finding(
        rule="rate_too_high", title=HOSTILE, words=HOSTILE, advice="Lower optimizer.learning_rate.",
        changes={"learning_rate": 1e-4, "steps": 8},
    )  # fmt: skip
    mild = Finding(rule="x", title="Mild", words="m", advice="n", severity="note", changes={"output": "/"})
    shown = run_card.pieces(context, run(record=RECORD.model_copy(update={"verdict": (bad, mild)})).id)
    piece = shown["found"]
    assert WELL not in shown["end"]
    assert "<img src=x" not in piece and "{{" not in piece
    assert "Lower “Learning rate”." in piece and "<b>0.0001</b>" in piece
    assert "Steps" not in piece, "it is 8 already"
    assert piece.count('data-act="again"') == 1 and 'data-rule="rate_too_high"' in piece, "one can be set"
    assert 'class="pgt-finding note"' in piece
    both = (bad, mild.model_copy(update={"changes": {"rank": 3}}))
    piece = run_card.pieces(context, run(record=RECORD.model_copy(update={"verdict": both})).id)["found"]
    assert 'data-rule="all"' in piece


def test_a_run_whose_numbers_broke_has_its_verdict_too(context: Context, run: Made) -> None:
    broke = Finding(rule="not_finite", title="The numbers broke", words="w", advice="a")
    job = run("failed", Record(verdict=(broke,)))
    shutil.rmtree(context.jobs.folder(job) / "candidates")
    assert "The numbers broke" in run_card.pieces(context, job.id)["found"]


def test_copies_lie_beside_what_they_copy(context: Context, run: Made) -> None:
    pairs = [
        Pair(picture=f"evidence/d{n}.png", nearest="001.png", structure=0.9, flagged=n < 5) for n in range(6)
    ]
    seen = Memorisation(thresholds={"structure": 0.5}, calibrated="x", pairs=tuple(pairs))
    job = run(record=RECORD.model_copy(update={"memorisation": seen}))
    piece = run_card.pieces(context, job.id)["found"]
    assert piece.count("<figure>") == run_found.SHOWN_COPIES and "and 1 more" in piece
    assert (
        f'src="files/evidence/{job.id}/d0.png"' in piece and f'src="files/taught/{job.id}/001.png"' in piece
    )
    assert "disc 1.png" in piece, "a picture is called what the person called it"


def test_unused_ranks_are_cut_by_a_job(context: Context, run: Made) -> None:
    job = run(record=RECORD.model_copy(update={"anatomy": ANATOMY}))
    assert "It uses 5 of its 16 ranks" in run_card.pieces(context, job.id)["found"]
    press(context, "resize", job, rank="5")
    [resize] = context.jobs.find(kind="resize")
    asked = reworking.ResizeRequest.model_validate(resize.config)
    assert (asked.rank, asked.adapter, asked.name) == (5, job.result["adapter"], "zuv, rank 5")
    assert "being resized" in run_card.pieces(context, job.id)["found"]
    with context.workspace.write() as db:
        db.execute("UPDATE jobs SET state = 'done' WHERE id = ?", (resize.id,))
    assert f'data-act="mix" data-id="{resize.id}"' in run_card.pieces(context, job.id)["found"]
    context.library.trash(job.result["adapter"])
    assert "ranks" not in run_card.pieces(context, job.id)["found"]


def test_what_was_drawn_stands_for_a_step_without_a_preview(context: Context, run: Made) -> None:
    drawn, base = (
        Seen(step=step, files=(f"evidence/{name}.png",), prompts=("a zuv",))
        for step, name in ((8, "drawn"), (0, "base"))
    )
    choice = CHOICE.model_copy(update={"step": 8})
    record = RECORD.model_copy(update={"choice": choice, "drawn": drawn, "base": base})
    job = run(record=record)
    log = context.run_log(job)
    assert "files/preview/" in run_end.end(context, job, log).html
    del log.previews[8]
    html = run_end.end(context, job, log).html
    assert f'before="files/evidence/{job.id}/base.png"' in html and "drawn.png" in html
    other = record.model_copy(update={"drawn": drawn.model_copy(update={"step": 4})})
    write_record(context.jobs.folder(job), other)
    assert "evidence/" not in run_end.end(context, job, log).html, "that is of another step"


def test_ways_on_are_there_with_what_they_lead_to(context: Context, run: Made) -> None:
    other, job = run(record=RECORD), run(record=RECORD)
    bare = run_end.end(context, job, context.run_log(job), [job]).html
    assert "pgt-ways" not in bare
    folder = context.jobs.folder(job)
    (folder / "report.html").touch()
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.toml").touch()
    html = run_end.end(context, job, context.run_log(job), [job, other]).html
    for address in (
        f"files/report/{job.id}",
        f"files/bundle/{job.id}",
        f"files/compare/{job.id}%2C{other.id}",
    ):
        assert f'href="{address}"' in html
    assert html.count("files/compare/") == 1 and 'data-act="again"' in html
