"""Runs that checkpoints are chosen from, to hold the choice against the truth: a table, and a runner.

Every run teaches the embedded base a concept; some are meant to learn well, some too long or too fast for
their pictures, some too little. Rates are as people write them for SD 1.5 (`optimizers.base_rate_scale`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StudioError, nearest
from trainers.bench.concepts import POOLS as WORKED_OUT
from trainers.bench.concepts import PROOF, UNSEEN, Concept, concept, lay_out, taught, unseen

if TYPE_CHECKING:
    from trainers.config import TrainConfig

POOLS = (*WORKED_OUT, PROOF)
MEANT = ("well", "too much", "too little")
MEASUREMENTS = 10
"""Candidates of each run, about."""

SCALE = 20.0
"""What rates for SD 1.5 are multiplied with on the embedded base, as `base_rate_scale` does unasked."""

SHORT_STEPS, SHORT_RUNS = 12, 2
"""With `--short`: how many steps, and how many runs of a pool."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training. pictures: how many are given, those to be held out among them. meant: one of MEANT.

    fields: settings by name that differ from `config`'s; steps among them.
    """

    id: str
    pool: str
    concept: str
    pictures: int
    meant: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How long it learns."""
        return int(self.fields["steps"])

    def shortened(self) -> Run:
        """The same with few steps."""
        return Run(**{**vars(self), "fields": {**self.fields, "steps": SHORT_STEPS}})


def _runs(pool: str, text: str) -> tuple[Run, ...]:
    """Rows "id concept pictures meant rate steps field=value …", one a line."""
    found = []
    for line in text.strip().splitlines():
        id, concept_id, pictures, meant, rate, steps, *more = line.split()
        given = {name: _value(value) for name, _, value in (one.partition("=") for one in more)}
        fields = {"learning_rate": float(f"{float(rate) * SCALE:.6g}"), "steps": int(steps), **given}
        if "rank" in given:
            fields["alpha"] = float(given["rank"])
        meaning = meant.replace("-", " ")
        found.append(
            Run(id=id, pool=pool, concept=concept_id, pictures=int(pictures), meant=meaning, fields=fields)
        )
    return tuple(found)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_DEV = """
bramu-usual       bramu       5   well        1e-4  130
bramu-fast        bramu       5   too-much    4e-4  150  prior_weight=0
kelvo-long        kelvo       4   too-much    2e-4  200  prior_weight=0 rank=32
pomdi-split       pomdi       14  well        2e-4  160  held_out=4
pomdi-hot         pomdi       6   too-much    8e-4  120
wexna-usual       wexna       6   well        1.5e-4  160  rank=4
wexna-split-hot   wexna       12  too-much    5e-4  160  held_out=3
tuvli-brief       tuvli       5   too-little  4e-5  40
thermal-usual     thermal     12  well        1e-4  120  held_out=0
thermal-hot       thermal     12  too-much    6e-4  150
papercut-few      papercut    6   too-much    3e-4  160
chalkboard-slow   chalkboard  12  too-little  2e-5  100
papercut-rank     papercut    4   too-much    4e-4  130  rank=16
bramu-constant    bramu       5   too-much    2e-4  220  prior_weight=0 schedule=constant
chalkboard-few    chalkboard  5   too-much    3e-4  160
kelvo-usual       kelvo       6   well        1.5e-4  130  seed=1
thermal-few       thermal     4   too-much    4e-4  130  rank=16
tuvli-usual       tuvli       5   well        1e-4  130
pomdi-fast        pomdi       4   too-much    4e-4  160  prior_weight=0 schedule=constant
wexna-fast        wexna       6   too-much    6e-4  120
papercut-usual    papercut    6   well        1e-4  120
kelvo-rank        kelvo       4   well        1e-4  160  rank=16
chalkboard-split  chalkboard  14  well        2e-4  150  held_out=4
tuvli-long        tuvli       5   too-much    3e-4  200  prior_weight=0
"""

_TEST = """
glimo-usual       glimo       5   well        1e-4  130
glimo-fast        glimo       5   too-much    5e-4  160  prior_weight=0 schedule=constant
glimo-slow        glimo       14  too-little  2e-5  120  held_out=4
rafsu-split       rafsu       14  well        1e-4  160  held_out=4
rafsu-long        rafsu       4   too-much    3e-4  200  prior_weight=0 rank=32
dobrix-brief      dobrix      5   too-little  4e-5  40
dobrix-unet       dobrix      6   well        2e-4  130  text_targets=none
dobrix-hot        dobrix      5   too-much    8e-4  120
selpu-usual       selpu       4   well        1e-4  160  rank=16
selpu-split-hot   selpu       12  too-much    6e-4  160  held_out=3
selpu-fast        selpu       4   too-much    4e-4  160  prior_weight=0 schedule=constant
vantok-usual      vantok      6   well        1.5e-4  130  seed=1
vantok-slow       vantok      6   too-little  2e-5  100  rank=4
vantok-split      vantok      14  well        3e-4  130  prior_weight=0
minqua-long       minqua      5   too-much    2e-4  220  prior_weight=0 schedule=constant
hubbet-fast       hubbet      6   too-much    6e-4  120
hubbet-split      hubbet      12  well        1e-4  140  held_out=3 rank=4
neon-usual        neon        12  well        1e-4  120
neon-hot          neon        12  too-much    6e-4  150  held_out=0
stencil-few       stencil     5   too-much    3e-4  160
halftone-usual    halftone    12  well        2e-4  120  rank=4
glass-slow        stained-glass  12  too-little  2e-5  100
glass-split       stained-glass  14  too-much    5e-4  150  held_out=4
blinds-few        blinds      4   too-much    4e-4  130  rank=16
"""

_PROOF = """
orpik-usual       orpik       5   well        1e-4  130
orpik-fast        orpik       5   too-much    5e-4  150  prior_weight=0 schedule=constant
quanno-usual      quanno      4   well        1.5e-4  130  rank=16
quanno-long       quanno      4   too-much    3e-4  180  prior_weight=0 rank=32
quanno-split      quanno      12  too-much    4e-4  140  prior_weight=0 held_out=3
fizzur-hot        fizzur      6   too-much    8e-4  120
fizzur-unet       fizzur      6   well        2e-4  120  text_targets=none
lodmip-brief      lodmip      5   too-little  4e-5  40
lodmip-constant   lodmip      6   too-much    2e-4  180  prior_weight=0 schedule=constant
yavlin-usual      yavlin      6   well        1.5e-4  120  seed=2
yavlin-fast       yavlin      4   too-much    4e-4  130
crostu-slow       crostu      6   too-little  2e-5  100  rank=4
crostu-hot        crostu      5   too-much    6e-4  120
norgel-split      norgel      14  well        1e-4  140  held_out=4
norgel-split-hot  norgel      12  too-much    5e-4  130  held_out=3
beshti-split      beshti      12  well        2e-4  130  held_out=3 rank=4
beshti-slow       beshti      14  too-little  2e-5  100  held_out=4
gilded-usual      gilded      12  well        1e-4  120
gilded-hot        gilded      12  too-much    6e-4  130  held_out=0
anaglyph-few      anaglyph    5   too-much    3e-4  130
ripples-slow      ripples     12  too-little  2e-5  100
ripples-split     ripples     14  too-much    5e-4  130  held_out=4
sunken-few        sunken      4   too-much    4e-4  120  rank=16
hatched-usual     hatched     6   well        2e-4  110  rank=4
"""

RUNS: dict[str, Run] = {
    run.id: run for run in (*_runs("dev", _DEV), *_runs("test", _TEST), *_runs(PROOF, _PROOF))
}


def pool(name: str, only: Sequence[str] = ()) -> list[Run]:
    """The runs of a pool; those named where some are. Raises: ConfigError for an unknown name."""
    if name not in POOLS:
        raise ConfigError(f"unknown pool {name!r}{nearest(name, POOLS)}")
    found = {run.id: run for run in RUNS.values() if run.pool == name}
    for id in only:
        if id not in found:
            raise ConfigError(f"pool {name!r} has no run {id!r}{nearest(id, found)}")
    return [found[id] for id in only] if only else list(found.values())


@dataclass(frozen=True)
class Place:
    """Where runs lie: each in a folder of its id; pictures and caches beside, which runs share."""

    folder: Path

    def run(self, run: Run) -> Path:
        """The run's own folder."""
        return self.folder / run.pool / run.id

    def pictures(self, row: Concept, count: int) -> Path:
        """What is taught of a concept."""
        return self.folder / "pictures" / f"{row.id}-{count}"

    def unseen(self, row: Concept) -> Path:
        """What is never taught of it."""
        return self.folder / "pictures" / f"{row.id}-unseen"

    def draw(self, run: Run) -> None:
        """Lay the pictures of a run's concept out, where they aren't there yet."""
        row = concept(run.concept)
        wanted = {
            self.pictures(row, run.pictures): (taught, run.pictures),
            self.unseen(row): (unseen, UNSEEN),
        }
        for folder, (draw, count) in wanted.items():
            if not folder.is_dir():
                new = folder.with_name(f".{folder.name}.new")
                lay_out(draw(row, count), new).rename(folder)


def config(run: Run, place: Place, device: str | None = "cpu") -> TrainConfig:
    """The training's config: the preset “sketch” with small batches, measured some MEASUREMENTS times."""
    from trainers.config import preset_config

    row = concept(run.concept)
    small = {"batch_size": 2, "num_class_images": 16, "held_out": 0}
    prior = {"prior_batch_size": 1} if row.kind == "subject" else {}
    seen = {} if run.meant == "well" else {"samples": 0}  # whose verdict is looked at too
    return preset_config(
        "sketch",
        row.kind,
        **{
            "instance_images": place.pictures(row, run.pictures), "trigger": row.trigger,
            "instance_prompt": row.instance_prompt, "class_prompt": row.class_prompt,
            "output": place.run(run), "cache": place.folder / "cache", "name": run.id, "threads": 1,
            "device": device, "preview_every": 0, "checkpoint_every": run.steps, "candidates": 100,
            "evaluate_every": max(4, run.steps // MEASUREMENTS), "report": False, **small, **prior, **seen,
            **run.fields,
        },
    )  # fmt: skip


def work(run: Run, folder: Path, device: str | None = "cpu") -> tuple[str, str]:
    """Train a run and score its candidates, in a process of one thread; (its id, why it failed or "")."""
    import torch

    from pipelines.base import quiet
    from trainers.bench.evidence_truth import score
    from trainers.loop import train

    torch.set_num_threads(1)
    place = Place(folder)
    try:
        with quiet():
            settings = config(run, place, device)
            for _ in train(settings):
                pass
            score(settings, place.unseen(concept(run.concept)))
    except StudioError as error:
        return run.id, str(error)
    except Exception as error:  # One run's fault may not cost the others' figures.
        return run.id, f"{type(error).__name__}: {error}".splitlines()[0]
    return run.id, ""


def run_all(
    runs: Sequence[Run], folder: Path, jobs: int = 2, device: str | None = "cpu"
) -> Iterator[tuple[Run, str]]:
    """Run what hasn't been scored yet, some side by side; yield (run, why it failed or "") as they are done.

    Raises: StudioError where pictures can't be drawn.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from trainers.bench.evidence_truth import read_truth

    place, by_id = Place(folder), {run.id: run for run in runs}
    missing = [run for run in runs if read_truth(place.run(run)) is None]
    for run in missing:
        place.draw(run)
    yield from ((run, "") for run in runs if run not in missing)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        asked = [workers.submit(work, run, folder, device) for run in missing]
        for done in as_completed(asked):
            id, why = done.result()
            yield by_id[id], why
