"""Whether drawn pictures are copies of those that were learned from.

Each is held against all, mirrored and cut closer too (see `trainers.evidence.structure`). What counts as a
copy follows from how near the learned pictures come to each other, leaving each out in turn, and how near
those come that were held out: a drawn picture that is no nearer than these is what anybody would draw who
knows the subject. A picture that is known by heart comes out of every seed, so less is asked for where
several drawn ones are near the same learned one and each other. Bounds from the neighbours' distances, and
copies that are told by coming again and again: Carlini et al. 2023, https://arxiv.org/abs/2301.13188.

Measured on the two example subjects and styles and three concepts of `trainers.bench.concepts`, 5 to 12
learned and 5 to 8 other pictures each, on the embedded base: learned pictures come to 0.62 in structure of
each other, unseen ones to 0.75 of learned ones, 72 pictures drawn by the example adapters to 0.68. Learned
pictures themselves come to 0.94 after JPEG at quality 40, 0.88 where 80 to 90% of the side was cut out, 0.84
after the embedded autoencoder, 0.81 after both cutting and the autoencoder. By the embedded tower copies that
aren't cut or mirrored come to 0.98, drawn pictures to 0.97: it can only second what the pixels say.

Of 17 runs of pool dev that knew no picture by heart no drawn picture came nearer than 0.60; two that were
taught one and two pictures for 300 steps drew them again at 0.83 to 0.87 and at 0.66 to 0.72, by two seeds
that are 0.86 and 0.75 alike. That is what `REPEATED` was set on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from trainers.evidence.judges import Likeness
from trainers.evidence.record import Memorisation, Pair
from trainers.evidence.references import References, evenly
from trainers.evidence.structure import nearness

MARGIN = 0.3
"""How far beyond the nearest ordinary pair a copy lies, as a share of what is left until 1."""

BOUNDS = {"structure": (0.8, 0.95), "similarity": (0.98, 0.998)}
"""What a bound may be, by measure."""

SAME = {"structure": 0.97, "similarity": 0.995}
"""Beyond this two learned pictures are taken for one that is there twice."""

REPEATED = {"learned": 0.65, "drawn": 0.7}
"""Structure beyond which a drawn picture is a copy too: of the learned one, and of another drawn one that is
as near to the same."""

LEARNED = 32
"""Learned pictures, at most, that are compared with each other; evenly out of all."""

NEAREST = 64
"""Learned pictures, at most, whose pixels a drawn one is compared with: of very many those nearest by colours
and by embedding."""


@dataclass(frozen=True)
class Bounds:
    """What a copy lies beyond. usual: structure of the nearest ordinary pair; 0: there is none. words: how
    that was found."""

    structure: float
    similarity: float
    usual: float
    words: str

    @property
    def near(self) -> float:
        """Structure beyond which a picture is a copy if another seed draws the same."""
        return min(self.structure, max(self.usual, REPEATED["learned"]))

    def crossed(self, structure: float, similarity: float | None) -> bool:
        """Whether a pair is a copy: by its pixels, or by embeddings that are all but the same and pixels
        that are nearer than usual."""
        usual = self.usual or self.structure
        alike = similarity is not None and similarity > self.similarity and structure > usual
        return structure > self.structure or alike


def memorisation(
    pictures: Sequence[Image.Image],
    files: Sequence[str],
    references: References,
    judge: Likeness | None,
) -> Memorisation | None:
    """Hold each drawn picture against each that was learned from; None without any.

    files: names of the drawn pictures, below the run's folder. judge: None leaves embeddings out.
    """
    if not pictures or not references.taught:
        return None
    bounds = calibrate(references, judge)
    similarity = None
    if judge is not None:
        similarity = judge.image_embeddings(pictures) @ references.embedded(judge, taught=True).T  # (N, M)
    columns = _candidates(pictures, references, similarity)
    structure = nearness(pictures, [references.taught[column] for column in columns])
    again = _repeated(pictures, structure, bounds)
    pairs = []
    for row, file in enumerate(files):
        found = [
            (
                float(structure[row, at]),
                None if similarity is None else float(similarity[row, column]),
                column,
            )
            for at, column in enumerate(columns)
        ]
        same, alike, column = max(found, key=lambda one: (bounds.crossed(*one[:2]), one[0]))
        pairs.append(
            Pair(
                picture=file, nearest=references.names[column], structure=round(same, 5),
                similarity=None if alike is None else round(alike, 5),
                flagged=row in again or bounds.crossed(same, alike),
            )
        )  # fmt: skip
    thresholds = {"structure": round(bounds.structure, 5)}
    if judge is not None:
        thresholds["similarity"] = round(bounds.similarity, 5)
    pairs.sort(key=lambda pair: (not pair.flagged, -pair.structure))
    return Memorisation(thresholds=thresholds, calibrated=bounds.words, pairs=tuple(pairs))


def calibrate(references: References, judge: Likeness | None = None) -> Bounds:
    """Find what a copy lies beyond, from the learned pictures themselves and those held out.

    One picture alone tells nothing: the lower `BOUNDS` hold. So do they where all are so alike that copies
    can't be told from likeness, with words that say so; the upper ones are taken then.
    """
    taught = _evenly(references.taught, LEARNED)
    others = _evenly(references.held_out, LEARNED)
    structure = [nearness(taught, taught)] + ([nearness(others, taught)] if others else [])
    similarity: list[torch.Tensor] = []
    if judge is not None:
        learned = evenly(references.embedded(judge, taught=True), LEARNED)
        similarity.append(learned @ learned.T)
        if others:
            similarity.append(evenly(references.embedded(judge, taught=False), LEARNED) @ learned.T)
    usual = _nearest(structure, SAME["structure"])
    alike = _nearest(similarity, SAME["similarity"])
    count = len(references.taught)
    if usual is None:
        what = "one picture" if count == 1 else f"{count} pictures that are all but the same"
        words = f"{what}: nothing to compare it with, so fixed bounds hold"
        return _told(Bounds(BOUNDS["structure"][0], BOUNDS["similarity"][0], 0.0, words))
    words = f"how near {count} learned pictures come to each other"
    if others:
        words += f" and {len(references.held_out)} held-out ones to them"
    words += f": up to {usual:.2f} in structure"
    if usual > BOUNDS["structure"][1]:
        words += "; they are so alike that a copy can hardly be told from likeness"
    return _told(Bounds(_beyond("structure", usual), _beyond("similarity", alike or 0.0), usual, words))


def _told(bounds: Bounds) -> Bounds:
    """The same, with words that say of less where another seed draws the same."""
    if bounds.near >= bounds.structure:
        return bounds
    return replace(bounds, words=f"{bounds.words}; beyond {bounds.near:.2f} where another seed draws it too")


def _repeated(pictures: Sequence[Image.Image], structure: torch.Tensor, bounds: Bounds) -> set[int]:
    """Indices of drawn pictures that are near a learned one, as another one is that is the same as it.

    structure: (N, M). Of more than NEAREST that are so near those that are nearest.
    """
    best, nearest = structure.max(dim=1)
    order = [int(row) for row in best.argsort(descending=True)[:NEAREST]]
    near = [row for row in order if float(best[row]) > bounds.near]
    if len(near) < 2:
        return set()
    small = [pictures[row] for row in near]
    same = nearness(small, small) > REPEATED["drawn"]
    same &= nearest[near][:, None] == nearest[near][None]
    same.fill_diagonal_(False)
    return {row for row, others in zip(near, same.tolist(), strict=True) if any(others)}


def _beyond(measure: str, usual: float) -> float:
    low, high = BOUNDS[measure]
    return min(max(usual + MARGIN * (1 - usual), low), max(high, usual))


def _nearest(tables: Sequence[torch.Tensor], same: float) -> float | None:
    """The nearest ordinary pair: the most in tables (N, M) that isn't a picture with itself again.

    The first table is of learned pictures with each other. None where there is no ordinary pair.
    """
    values = [table[table < same] for table in tables]
    if tables:
        square = tables[0].clone()
        square.fill_diagonal_(2.0)
        values[0] = square[square < same]
    found = torch.cat([value.flatten() for value in values]) if values else torch.empty(0)
    return float(found.max()) if len(found) else None


def _evenly(images: Sequence[Image.Image], most: int) -> list[Image.Image]:
    """At most so many, at even distances."""
    count = len(images)
    return list(images) if count <= most else [images[index * count // most] for index in range(most)]


def _candidates(
    pictures: Sequence[Image.Image], references: References, similarity: torch.Tensor | None
) -> list[int]:
    """Indices of the learned pictures whose pixels are compared: all, or those nearest to any drawn one."""
    count = len(references.taught)
    if count <= NEAREST:
        return list(range(count))
    tables = [_colours(pictures) @ _colours(references.taught).T]
    if similarity is not None:
        tables.append(similarity)
    chosen: dict[int, None] = {}
    for rank in range(count):
        for table in tables:
            for row in table.argsort(dim=1, descending=True):
                chosen.setdefault(int(row[rank]))
        if len(chosen) >= NEAREST:
            break
    return sorted(list(chosen)[:NEAREST])


def _colours(images: Sequence[Image.Image]) -> torch.Tensor:
    """(B, D): colours of a coarse grid about their mean, and those of the mirror image added, as units."""
    from trainers.evidence.structure import sized

    small = sized(images, 8)
    both = (small + small.flip(-1)).flatten(1)
    centred = both - both.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
