"""Prompts from few words: the trigger, and what the subject is."""

from __future__ import annotations


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
