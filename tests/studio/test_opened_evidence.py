"""The library's evidence: what is known of an adapter as text, the ways on, the resize that is advised."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.errors import ConfigError
from studio.context import Context
from studio.tabs import library, opened
from studio.tabs.opened_evidence import RESIZE, resize_to
from trainers.evidence.record import (
    RECORD_NAME,
    REPORT_NAME,
    Anatomy,
    Block,
    Choice,
    Finding,
    Loss,
    Measured,
    Memorisation,
    Pair,
    Record,
)
from trainers.evidence.rules import WELL

HOSTILE = '<img src=x onerror="1"> {{x}}'
ADAPTER = "example-teapot"
Known = Callable[..., str]


@pytest.fixture
def known(context: Context) -> Known:
    """Keep a record beside an example; returns the piece that shows it."""
    context.library.add_examples()

    def keep(**fields: object) -> str:
        record = Record.model_validate(fields)
        path = context.workspace.folder("adapters", f"{ADAPTER}.{RECORD_NAME}")
        path.write_text(record.model_dump_json(), encoding="utf-8")
        return opened.pieces(context, ADAPTER)["evidence"]

    return keep


def anatomy(rank_99: int, rank: int = 16) -> Anatomy:
    shares = {"mid_block": 0.25, f"up_blocks.{HOSTILE}": 0.75}
    blocks = tuple(Block(name=name, modules=2, norm=1.0, share=share) for name, share in shares.items())
    return Anatomy(
        blocks=blocks, norm=1.0, text_share=0.0, rank=rank, rank_95=4, rank_99=rank_99, error_95=0.2,
        error_99=0.09, dead=("unet.x",),
    )  # fmt: skip


def test_an_adapter_of_which_nothing_is_known_shows_nothing(context: Context, known: Known) -> None:
    assert opened.pieces(context, ADAPTER)["evidence"] == ""


def test_all_that_is_known_is_shown_as_text(context: Context, known: Known) -> None:
    finding = Finding(rule="over_trained", title=HOSTILE, words=HOSTILE, advice="Stop sooner.")
    pair = Pair(picture="evidence/drawn-01.png", nearest=HOSTILE, structure=0.97, flagged=True)
    fine = pair.model_copy(update={"flagged": False})
    shown = known(
        run={"step": 200}, verdict=(finding,), anatomy=anatomy(5),
        choice=Choice(step=150, last=300, rule="held_out", reason=f"Lowest here. {HOSTILE}"),
        memorisation=Memorisation(thresholds={}, calibrated="", pairs=(pair, fine)),
    )  # fmt: skip
    assert "<img src=x" not in shown and "{{" not in shown
    assert "Stop sooner." in shown and "Lowest here." in shown
    assert "Of step 200; step 150 was recommended" in shown
    assert shown.count("is a copy of") == 1 and "drawn-01.png is a copy of &lt;img" in shown
    assert "width:33.3%" in shown and "width:100.0%" in shown and "<b>75%</b>" in shown
    assert "1 module learned nothing" in shown
    assert WELL not in shown and "files/report" not in shown
    context.workspace.folder("adapters", f"{ADAPTER}.{REPORT_NAME}").write_text("<p>", encoding="utf-8")
    assert f"files/report/adapter/{ADAPTER}" in opened.pieces(context, ADAPTER)["evidence"]


def test_a_good_run_is_said_to_be_one(known: Known) -> None:
    shown = known(
        measured=(Measured(step=0, losses={"teaching": Loss(mean=1.0)}),),
        choice=Choice(step=300, last=300, rule="last", reason="It fell to the end."),
    )
    assert WELL in shown and "<h4>Step 300</h4>" in shown


def test_the_advised_resize_is_one_press(context: Context, known: Known) -> None:
    shown = known(anatomy=anatomy(5))
    assert f'data-act="{RESIZE}"' in shown and "Resize to 5" in shown
    assert RESIZE in library.ACTS
    assert resize_to(context, ADAPTER) == "It is being resized to rank 5"
    [job] = context.jobs.find(kind="resize")
    assert (job.config["adapter"], job.config["rank"]) == (ADAPTER, 5)
    assert job.config["name"].endswith(", rank 5")
    shown = opened.pieces(context, ADAPTER)["evidence"]
    assert RESIZE not in shown and "It is being resized" in shown
    context.jobs.stop(job.id)
    assert RESIZE in opened.pieces(context, ADAPTER)["evidence"], "stopped, it can be asked for again"


def test_nothing_is_resized_that_needs_its_ranks(context: Context, known: Known) -> None:
    assert RESIZE not in known(anatomy=anatomy(15))
    with pytest.raises(ConfigError, match=r"nothing says that .* should be smaller"):
        resize_to(context, ADAPTER)
