"""The parts of a report, each made of what was measured; empty where nothing was."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from trainers.evidence.ranks import rank_advice
from trainers.evidence.record import Anatomy, Finding, Memorisation, Pair, Record, Seen
from trainers.evidence.report_pictures import Pictures
from trainers.evidence.rules import WELL

COLUMNS = 12  # of a strip
HERO = 4  # pictures at the top
NEAREST = 3  # pairs that are shown where none is a copy


def section(title: str, body: str, hint: str = "", key: str = "") -> str:
    """A part of the page with its heading; empty where its body is."""
    about = f"<p class='hint'>{escape(hint)}</p>" if hint else ""
    return f'<section class="{key}"><h2>{escape(title)}</h2>{about}{body}</section>' if body else ""


def verdict(record: Record) -> str:
    """What was found, the most important first, and what to change."""
    if record.verdict:
        return "".join(_finding(one) for one in record.verdict)
    return f'<div class="finding well"><h3>All well</h3><p>{escape(WELL)}</p></div>' if judged(record) else ""


def judged(record: Record) -> bool:
    """Whether so much was measured that finding nothing says something."""
    return bool(record.measured or record.drawn or record.memorisation)


def _finding(found: Finding) -> str:
    advice = f'<p class="advice">{escape(found.advice)}</p>' if found.advice else ""
    return (
        f'<div class="finding {"note" if found.severity == "note" else "problem"}">'
        f"<h3>{escape(found.title)}</h3><p>{escape(found.words)}</p>{advice}</div>"
    )


def choice(record: Record) -> str:
    """Which step was taken, on a line of all that were measured, and why."""
    chosen = record.choice
    if chosen is None:
        return ""
    steps = sorted({one.step for one in record.measured} | {chosen.step, chosen.last})
    last = max(chosen.last, 1)
    dots = "".join(
        f'<i style="left:{min(1.0, step / last):.2%}"{" class=taken" if step == chosen.step else ""}></i>'
        for step in steps
        if step
    )
    share = min(1.0, chosen.step / last)
    return (
        f'<div class="choice"><p class="big">Step {chosen.step:,}<small> of {chosen.last:,}</small></p>'
        f'<div class="track" aria-hidden="true"><b style="width:{share:.2%}"></b>{dots}</div>'
        f"<p>{escape(chosen.reason)}</p>{_other_step(record)}</div>"
    )


def _other_step(record: Record) -> str:
    """Where another step was asked for than the recommended one."""
    if record.drawn is None or record.choice is None or record.drawn.step == record.choice.step:
        return ""
    return f'<p class="hint after">The adapter is of step {record.drawn.step:,}, as it was asked for.</p>'


def hero(record: Record, pictures: Pictures, most: int = HERO) -> str:
    """The largest pictures: what it draws now; `most` of them."""
    shown = ""
    for seen in (record.drawn, *_nearest_previews(record)):
        if seen is None:
            continue
        order = _one_of_each_prompt(seen)
        found = [pictures.drawn(seen.files[at], _alt(seen, at)) for at in order[:most]]
        shown = "".join(f"<div>{one}</div>" for one in found if one)
        if shown:
            break
    return f'<div class="hero">{shown}</div>' if shown else ""


def _nearest_previews(record: Record) -> list[Seen]:
    if not record.previews:
        return []
    step = record.choice.step if record.choice else record.previews[-1].step
    return sorted(record.previews, key=lambda seen: (abs(seen.step - step), -seen.step))


def _one_of_each_prompt(seen: Seen) -> list[int]:
    """Places of the pictures, one of each prompt before the second of any."""
    counts: dict[str, int] = {}
    ranks = []
    for at in range(len(seen.files)):
        prompt = seen.prompts[at] if at < len(seen.prompts) else ""
        ranks.append((counts.get(prompt, 0), at))
        counts[prompt] = counts.get(prompt, 0) + 1
    return [at for _, at in sorted(ranks)]


def _alt(seen: Seen, at: int) -> str:
    said = seen.prompts[at] if at < len(seen.prompts) else "a picture"
    seed = f", seed {seen.seeds[at]}" if at < len(seen.seeds) else ""
    return f"{said}, {'the base' if not seen.step else f'step {seen.step}'}{seed}"


def strips(record: Record, pictures: Pictures) -> str:
    """Previews over the steps, a row for each prompt, the recommended step framed."""
    rows = max((len(seen.files) for seen in record.previews), default=0)
    made = (strip(record, pictures, row) for row in range(rows))
    return "".join(f'<p class="prompt">{escape(prompt)}</p>{shown}' for prompt, shown in made if shown)


def strip(record: Record, pictures: Pictures, row: int) -> tuple[str, str]:
    """The prompt of a row of previews, and its pictures over the steps; empty where there are none."""
    recommended = record.choice.step if record.choice else None
    columns = few([seen for seen in record.previews if row < len(seen.files)], recommended)
    cells = "".join(_cell(seen, row, pictures, recommended) for seen in columns)
    prompt = next((seen.prompts[row] for seen in columns if row < len(seen.prompts)), "")
    if not cells:
        return prompt, ""
    return prompt, f'<div class="strip" tabindex="0" role="group" aria-label="Steps">{cells}</div>'


def few(seen: Sequence[Seen], taken: int | None, keep: int = COLUMNS) -> list[Seen]:
    """At most `keep` of the previews, even over the run, with the first, the last and the taken one."""
    ordered = sorted(seen, key=lambda one: one.step)
    if len(ordered) <= keep:
        return ordered
    nearest = min(range(len(ordered)), key=lambda at: abs(ordered[at].step - (taken or 0)))
    places = {round(number * (len(ordered) - 1) / (keep - 2)) for number in range(keep - 1)} | {nearest}
    return [ordered[at] for at in sorted(places)]


def _cell(seen: Seen, row: int, pictures: Pictures, taken: int | None) -> str:
    shown = pictures.drawn(seen.files[row], _alt(seen, row), small=True)
    if not shown:
        return ""
    when = f"step {seen.step:,}" if seen.step else "before"
    chosen = " class=taken" if taken is not None and seen.step == taken else ""
    return f"<figure{chosen}>{shown}<figcaption>{when}</figcaption></figure>"


def against_base(record: Record, pictures: Pictures) -> str:
    """What the adapter draws beside what the base draws of the same seed."""
    if record.drawn is None or record.base is None:
        return ""
    made: list[str] = []
    count = len(set(record.drawn.prompts)) or len(record.drawn.files)
    for at in _one_of_each_prompt(record.drawn):
        if at >= len(record.base.files):
            continue
        before = pictures.drawn(record.base.files[at], _alt(record.base, at))
        after = pictures.drawn(record.drawn.files[at], _alt(record.drawn, at))
        if before and after:
            said = record.drawn.prompts[at] if at < len(record.drawn.prompts) else ""
            made.append(_two(before, "base", after, "taught", said))
    first, more = made[:count], made[count:]
    folded = f'<details><summary>More seeds</summary><div class="pairs">{"".join(more)}</div></details>'
    return f'<div class="pairs">{"".join(first)}</div>{folded if more else ""}' if made else ""


def _two(left: str, left_name: str, right: str, right_name: str, said: str, style: str = "") -> str:
    caption = f"<figcaption>{escape(said)}</figcaption>" if said else ""
    return (
        f'<figure class="pair {style}"><div><div>{left}<small>{escape(left_name)}</small></div>'
        f"<div>{right}<small>{escape(right_name)}</small></div></div>{caption}</figure>"
    )


FIGURES = (
    ("image_similarity", "Likeness", "with the taught pictures", True),
    ("structure_similarity", "Structure", "with the taught pictures", True),
    ("prompt_similarity", "Prompt", "how well it is kept to", True),
    ("diversity", "Variety", "over seeds", True),
    ("drift", "Drift", "of unrelated prompts", False),
)
"""Figures of `Seen`: field, name, what of, whether more is better."""


def figures(record: Record) -> str:
    """What was drawn at the end, in figures, beside the base's."""
    if record.drawn is None:
        return ""
    tiles = []
    for name, title, of, _ in FIGURES:
        now = getattr(record.drawn, name)
        if now is None:
            continue
        before = getattr(record.base, name) if record.base is not None else None
        was = f"<small>base {before:.2f}</small>" if before is not None else ""
        tiles.append(f"<div><b>{now:.2f}</b>{was}<span>{escape(title)}</span><i>{escape(of)}</i></div>")
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def memorisation(found: Memorisation | None, pictures: Pictures) -> str:
    """Drawn pictures beside the taught ones that they are nearest to."""
    if found is None or not found.pairs:
        return ""
    count = found.flagged
    words = (
        f"{count} of {len(found.pairs)} drawn pictures {'is a copy' if count == 1 else 'are copies'}"
        if count
        else "No drawn picture is a copy"
    )
    copies = [pair for pair in found.pairs if pair.flagged][:COLUMNS]
    shown = copies + [pair for pair in found.pairs if not pair.flagged][: 0 if copies else NEAREST]
    made = "".join(_nearest(pair, pictures) for pair in shown)
    mark = "problem" if count else "well"
    return (
        f'<p class="said {mark}">{escape(words)}</p><div class="pairs">{made}</div>'
        f'<p class="hint after">{escape(_thresholds(found))}</p>'
    )


def _thresholds(found: Memorisation) -> str:
    """From where on a pair is a copy."""
    beyond = " and ".join(f"{name} {value:.0%}" for name, value in found.thresholds.items())
    on = f", calibrated on {found.calibrated.rstrip('.')}" if found.calibrated else ""
    return f"A copy is nearer than {beyond}{on}." if beyond else on.removeprefix(", ").capitalize()


def _nearest(pair: Pair, pictures: Pictures) -> str:
    left = pictures.drawn(pair.picture, "drawn") or _missing(pair.picture)
    right = pictures.learned(pair.nearest, f"taught picture {pair.nearest}") or _missing(pair.nearest)
    alike = f"{pair.similarity:.0%} alike, " if pair.similarity is not None else ""
    said = f"{'Copy: ' if pair.flagged else ''}{alike}structure {pair.structure:.0%}"
    return _two(left, "drawn", right, "nearest taught", said, "flagged" if pair.flagged else "")


def _missing(name: str) -> str:
    return f'<div class="gone">{escape(name)}</div>'


def anatomy(found: Anatomy | None) -> str:
    """What was changed where, as bars, and how many ranks of it are used."""
    if found is None or not found.blocks:
        return ""
    most = max(block.share for block in found.blocks) or 1.0
    rows = "".join(
        f"<tr><th scope=row>{escape(block.name)}</th><td><i class=bar "
        f'style="width:{max(0.0, block.share / most):.1%}"></i></td><td>{block.share:.0%}</td>'
        f"<td>{_used(block.rank)}{f' · {block.dead} of {block.modules} dead' if block.dead else ''}</td></tr>"
        for block in found.blocks
    )
    said = [f"Text encoder: {found.text_share:.0%} of the change"]
    if (advice := rank_advice(found)) is not None:
        said.append(advice.words[:1].upper() + advice.words[1:])
    if found.dead:
        said.append(f"{len(found.dead)} modules changed nothing")
    note = f'<p class="hint after">{escape(found.note)}</p>' if found.note else ""
    return (
        f'<p class="said">{escape(". ".join(said))}.</p><table class="anatomy"><thead><tr><th>Block</th>'
        "<th>Share of the change</th><th></th><th>Ranks used</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{note}"
    )


def _used(rank: float | None) -> str:
    return f"{rank:.1f}" if rank is not None else ""
