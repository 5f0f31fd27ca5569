"""What is drawn to be measured: prompts with the trigger, the same without it, and unrelated ones."""

from __future__ import annotations

import re

from trainers.settings import DataConfig, EvidenceConfig

SCENES = ("", "in the snow", "on a sandy beach by the sea")
"""Endings of a subject's prompts; the pictures seldom show them."""

THINGS = ("a cat", "a house", "a red apple")
"""What a style is asked for."""

UNRELATED = ("a photo of a dog on green grass", "a photo of a car at night", "a photo of a sunflower")
"""What has nothing to do with what is learned, unless it says so."""

_SPACES = re.compile(r"\s{2,}")
_AT_EDGES = " ,.;:-"


def fixed_prompts(data: DataConfig, evidence: EvidenceConfig) -> list[str]:
    """Return what is drawn of each adapter, with the trigger: `evidence_prompts`, else three of its own.

    A subject comes as the pictures' prompt says it, then in scenes; a style on things, in the words of the
    pictures' prompt where those say "… in zuv style", else in front of it.
    """
    if evidence.evidence_prompts:
        return list(evidence.evidence_prompts)
    return _PROMPTS[data.kind](data.instance_prompt)


def _of_subject(prompt: str) -> list[str]:
    return [f"{prompt} {scene}".strip() for scene in SCENES]


def _of_style(prompt: str) -> list[str]:
    """“a picture in zuv style” → “a cat in zuv style”; else “a cat, zuv style”."""
    match = re.search(r"\s(in|by|of|with)\s", f" {prompt} ")
    ending = f" {prompt} "[match.start() :].rstrip() if match else f", {prompt}"
    return [thing + ending for thing in THINGS]


_PROMPTS = {"subject": _of_subject, "style": _of_style}


def unrelated_prompts(data: DataConfig) -> list[str]:
    """Return prompts that the adapter shouldn't change: without the trigger and without the class' words."""
    own = set(_words(f"{data.trigger} {data.class_prompt} {data.instance_prompt}")) - _COMMON
    found = [prompt for prompt in UNRELATED if not own & set(_words(prompt))]
    return found or list(UNRELATED)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


_COMMON = frozenset(
    ("a", "an", "the", "of", "in", "on", "at", "by", "with", "photo", "picture", "drawing", "image", "style")
)


def plain(prompt: str, data: DataConfig) -> str:
    """Return a prompt without the trigger; the prompt of the pictures becomes that of the class."""
    if data.class_prompt and data.instance_prompt.casefold() in prompt.casefold():
        at = prompt.casefold().index(data.instance_prompt.casefold())
        prompt = prompt[:at] + data.class_prompt + prompt[at + len(data.instance_prompt) :]
    trigger = re.escape(data.trigger)
    for pattern in (
        rf",?\s*\b(in|by|of)\s+(the\s+)?(style\s+of\s+)?{trigger}(\s+style)?(?!\w)",
        rf"(?<!\w){trigger}(\s+style)?(?!\w)" if data.kind == "style" else rf"(?<!\w){trigger}(?!\w)",
    ):
        prompt = re.sub(pattern, " ", prompt, flags=re.IGNORECASE)
    prompt = re.sub(r"\s+,", ",", _SPACES.sub(" ", prompt))
    return re.sub(r"(,\s*)+,", ",", prompt).strip(_AT_EDGES)
