"""What adapters do to each other, in sentences: who overwrites whom and where, and what balances them.

Thresholds: an adapter overwrites another one as `interference_balance.overwritten` says; two are against each
other at a cosine of `AGAINST` in a block that matters to both, and alike at a cosine of `ALIKE` in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

from pipelines.interference import ALIKE, MATTERS, Interference
from pipelines.interference_balance import Balance, balance_of, overwritten, rounded

AGAINST = -0.3
SHOWN = 2  # blocks that are named


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One thing to know before mixing.

    kind: "overwrites", "against", "alike", or "calm" where nothing is the matter. adapters: whom
    it is about, the stronger first. blocks: where, the most important first; empty for no particular ones.
    proposal: what settles it; None where no weight does.
    """

    kind: str
    words: str
    adapters: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    proposal: Balance | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; "weights" and "factors" are empty where nothing is proposed."""
        balance = self.proposal or Balance(weights={})
        return {
            "kind": self.kind,
            "words": self.words,
            "adapters": list(self.adapters),
            "blocks": list(self.blocks),
            "weights": {one: list(own) for one, own in balance.weights.items()},
            "factors": {one: dict(own) for one, own in balance.blocks.items()},
        }


def sentences(report: Interference, names: Mapping[str, str] | None = None) -> list[Sentence]:
    """Say what matters about a mix, the most important first; one calm sentence where nothing does.

    names: what the adapters are called, where the report has them by something else.
    """
    called = {one: f"“{(names or {}).get(one, one)}”" for one in report.adapters}
    acting = tuple(one for one in report.adapters if any(report.sizes(one).values()))
    if len(acting) < 2:
        words = "At these weights no adapter changes anything."
        if acting:
            words = f"{called[acting[0]]} acts alone at these weights."
        return [Sentence(kind="calm", words=words, adapters=acting)]
    found = [one for find in (_overwrites, _against, _alike) for one in find(report, called)]
    return found or [Sentence(kind="calm", words=_calm(report, called, acting), adapters=acting)]


def _overwrites(report: Interference, called: Mapping[str, str]) -> Iterator[Sentence]:
    found = {pair: lost for pair in permutations(report.adapters, 2) if (lost := overwritten(report, *pair))}
    if not found:
        return
    proposal = balance_of(report)
    way = f"; {_proposed(proposal, report, called)}"
    for (strong, weak), lost in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        matters = _mattering(report, weak)
        where = "everywhere" if len(lost) == len(matters) > 1 else f"in {_listed(list(lost))}"
        yield Sentence(
            kind="overwrites", words=f"{called[strong]} overwrites {called[weak]} {where}{way}.",
            adapters=(strong, weak), blocks=tuple(lost), proposal=proposal,
        )  # fmt: skip
        way = ""  # said once


def _mattering(report: Interference, name: str) -> set[str]:
    """The blocks that hold at least `MATTERS` of what an adapter changes."""
    squares = {block: size**2 for block, size in report.sizes(name).items()}
    return {block for block, value in squares.items() if value and value >= MATTERS * sum(squares.values())}


def _against(report: Interference, called: Mapping[str, str]) -> Iterator[Sentence]:
    for first, second in combinations(report.adapters, 2):
        found = {}
        for block in _mattering(report, first) & _mattering(report, second):
            pair = report.pair(first, second, block)
            if pair is not None and pair.cosine is not None and pair.cosine <= AGAINST:
                found[block] = pair.cosine
        if found:
            places = sorted(found, key=lambda block: found[block])
            both = f"{called[first]} and {called[second]} pull against each other in {_listed(places)}"
            words = f"{both}: what the one adds there, the other takes away (cosine {found[places[0]]:.2f})."
            yield Sentence(kind="against", words=words, adapters=(first, second), blocks=tuple(places))


def _alike(report: Interference, called: Mapping[str, str]) -> Iterator[Sentence]:
    for pair in combinations(report.adapters, 2):
        known = report.pair(*pair)
        cosine = None if known is None else known.cosine
        if cosine is None or cosine < ALIKE:
            continue
        sizes = [math.sqrt(report.total.energy[one]) for one in pair]
        both = math.sqrt(sizes[0] ** 2 + sizes[1] ** 2 + 2 * cosine * sizes[0] * sizes[1])
        times = both / max(sizes)
        weights = {
            one: (rounded(report.weights[one][0] / times), rounded(report.weights[one][1] / times))
            for one in pair
        }
        at = " / ".join(_weight(weights[one][0]) for one in pair)
        words = (
            f"{called[pair[0]]} and {called[pair[1]]} change much the same (cosine {cosine:.2f}), together "
            f"{times:.1f} times as much as one; {at} keeps it at one's."
        )
        yield Sentence(kind="alike", words=words, adapters=pair, proposal=Balance(weights=weights))


def _calm(report: Interference, called: Mapping[str, str], acting: Sequence[str]) -> str:
    """What to say where nothing is the matter."""
    squares = {one: sum(size**2 for size in report.sizes(one).values()) for one in acting}
    whole = sum(squares.values())
    shares = ", ".join(f"{called[one]} {squares[one] / whole:.0%}" for one in acting)
    return f"None overwrites another: {shares} of what changes."


def _proposed(proposal: Balance | None, report: Interference, called: Mapping[str, str]) -> str:
    """The weights that balance, in the mix's order, and what differs in some blocks."""
    if proposal is None:
        return "no weights balance them"
    parts, whole = [], "them" if len(proposal.weights) == 2 else f"all {len(proposal.weights)}"
    if any(report.weights[name] != pair for name, pair in proposal.weights.items()):
        parts.append(" / ".join(_weight(pair[0]) for pair in proposal.weights.values()))
        if any(not _steady(report.weights[name], pair) for name, pair in proposal.weights.items()):
            parts[0] += f" (words {' / '.join(_weight(pair[1]) for pair in proposal.weights.values())})"
    lowered = [
        f"{called[name]} × {_weight(factor)} in {block}"
        for name, blocks in proposal.blocks.items()
        for block, factor in blocks.items()
    ]
    if len(lowered) > SHOWN:
        lowered = [f"less of {_and([called[name] for name in proposal.blocks])} in {len(lowered)} blocks"]
    parts += lowered
    return f"{' with '.join([parts[0], _and(parts[1:])] if parts[1:] else parts)} balances {whole}"


def _steady(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether both weights of an adapter change alike, so that one number says it."""
    return after[0] == after[1] or math.isclose(before[0] * after[1], before[1] * after[0], rel_tol=0.05)


def _weight(value: float) -> str:
    """A weight as people write it: 1.0, 0.6, 0.45."""
    shown = f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"
    return shown[:-1] if shown.endswith("0") and shown[-3:-2] == "." else shown


def _listed(blocks: Sequence[str]) -> str:
    """The first blocks by name, and how many more there are."""
    shown, more = list(blocks[:SHOWN]), len(blocks) - SHOWN
    return _and([*shown, f"{more} more block{'s' if more > 1 else ''}"] if more > 0 else shown)


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
