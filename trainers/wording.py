"""Prompts from few words: the trigger, and what the subject is."""

from __future__ import annotations

import re


def with_article(noun: str) -> str:
    """`noun` after "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def prompts(kind: str, trigger: str, class_name: str) -> tuple[str, str]:
    """(instance prompt, class prompt); the latter is empty for a style, and where the class isn't said."""
    if kind == "style":
        return f"a picture in {trigger} style", ""
    if not class_name:
        return f"a photo of {trigger}", ""
    return f"a photo of {with_article(f'{trigger} {class_name}')}", f"a photo of {with_article(class_name)}"


def without_trigger(prompt: str, trigger: str) -> str:
    """A prompt without the trigger: "a photo of a zib creature" is "a photo of a creature"; a style's
    whole phrase goes, "a fox in inkoprint style" is "a fox". The same where the trigger isn't in it."""
    word = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    plain = re.sub(rf",?\s*\bin\s+(?:the\s+)?{word}\s+style\b", "", prompt, flags=re.IGNORECASE)
    plain = re.sub(rf"\s*{word}", "", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\ban? (?=an? )", "", plain)
    return re.sub(r"\s+", " ", re.sub(r"\b(a|an) (\w)", _article, plain)).strip(" ,")


def _article(match: re.Match[str]) -> str:
    return f"{'an' if match[2].lower() in 'aeio' else 'a'} {match[2]}"
