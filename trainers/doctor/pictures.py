"""Checks of the pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainers.doctor.case import Case, Finding, Look

ALIKE_MARKS = 0.08
"""Share of a perceptual hash that may differ between near-duplicates."""
ALIKE_COLOURS = 10.0
"""Mean difference of their colours, 0 … 255."""
BLURRED = 0.02
"""Sharpness below which a picture is called blurred: sharp ones had 0.03 … 3, and those blurred over two
pixels at most 0.02."""
BLANK = 3.0
"""Spread of the luma below which nothing can be seen."""
SMALL = 0.9
"""Of the size that is learned: below that, a picture is enlarged."""
EXTREME = 3.0


def near_duplicates(case: Case) -> Iterator[Finding]:
    """Find pictures that are nearly the same; each is named with the first that it is like."""
    for one, first in _twins(case):
        if not one.held_out and not first.held_out:
            yield Finding(
                "near_duplicates",
                one.name,
                f"nearly the same as {first.name!r}",
                "take one of them out, or it counts twice",
            )


def seen_before(case: Case) -> Iterator[Finding]:
    """Find held-out pictures that are nearly the same as one that is learned from."""
    for one, first in _twins(case):
        if one.held_out != first.held_out:
            kept, learned = (one, first) if one.held_out else (first, one)
            yield Finding(
                "seen_before",
                kept.name,
                f"is held out, but nearly the same as {learned.name!r}, which is learned from",
                "take one of them out, or the held-out loss says nothing",
            )


def _twins(case: Case) -> Iterator[tuple[Look, Look]]:
    """Pairs of alike pictures, mirrored ones too where the config doesn't mirror them itself anyway."""
    if len(case.looks) < 2:
        return
    known = np.stack([one.marks for one in case.looks])  # (N, 512)
    colours = np.stack([one.colours for one in case.looks])  # (N, 8, 8, 3)
    for index, one in enumerate(case.looks[1:], start=1):
        for own, small in ((one.marks, one.colours), (one.mirrored, one.colours[:, ::-1])):
            apart = (known[:index] != own).mean(axis=1)
            distance = np.abs(colours[:index] - small).mean(axis=(1, 2, 3))
            alike = np.flatnonzero((apart <= ALIKE_MARKS) & (distance <= ALIKE_COLOURS))
            if len(alike):
                yield one, case.looks[int(alike[0])]
                break


def blur(case: Case) -> Iterator[Finding]:
    """Find pictures without sharp edges at the size that is learned."""
    for one in case.looks:
        if one.spread >= BLANK and one.sharpness < BLURRED:
            yield Finding(
                "blur",
                one.name,
                f"is blurred at {case.resolution} pixels (sharpness {one.sharpness:.3f}, "
                f"expected {BLURRED} or more)",
                "use a sharper one: blur is learned too",
            )


def blank(case: Case) -> Iterator[Finding]:
    """Find pictures of one colour."""
    for one in case.looks:
        if one.spread < BLANK:
            yield Finding("blank", one.name, "shows nothing: it has nearly one colour", "take it out")


def too_small(case: Case) -> Iterator[Finding]:
    """Find pictures that must be enlarged."""
    side = case.resolution
    for one in case.looks:
        scale = (one.size[0] * one.size[1]) ** 0.5 / side if case.data.buckets else min(one.size) / side
        if scale < SMALL:
            yield Finding(
                "too_small",
                one.name,
                f"has {one.size[0]}×{one.size[1]} pixels and is enlarged {1 / scale:.1f} times",
                f"use a larger one, or lower data.resolution from {side}",
            )


def extreme_aspect(case: Case) -> Iterator[Finding]:
    """Find pictures so long that much of them is cut off."""
    for one in case.looks:
        aspect = max(one.size) / min(one.size)
        if aspect > EXTREME:
            longest = case.data.bucket_aspect if case.data.buckets else 1.0
            lost = 1.0 - min(longest / aspect, 1.0)
            yield Finding(
                "extreme_aspect",
                one.name,
                f"is {aspect:.1f} times as long as wide, and {lost:.0%} of it is cut off",
                "cut out of it what matters",
            )
