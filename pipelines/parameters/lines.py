"""A1111's `parameters` text taken apart: prompt, negative prompt, and settings by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_KNOWN = {
    "steps", "sampler", "sampler name", "schedule type", "scheduler", "cfg scale", "cfg", "guidance", "seed",
    "size", "model", "model hash", "clip skip", "denoising strength", "version", "vae", "hires upscale",
    "lora hashes", "width", "height", "guidance scale",
}  # fmt: skip
_KEY = re.compile(r"(\w[\w \-/().+]{0,80}?)[ \t]*:(?!//)[ \t]*")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"(?=[ \t]*(?:,|\n|$))', re.DOTALL)
_LINE_START = re.compile(r"(?:^|\n)[ \t]*(?=Steps[ \t]*:[ \t]*\d)", re.IGNORECASE)
_WITHIN = re.compile(r"(?<![\w(])(?=Steps:\s*\d+\s*,\s*\w[\w ]{0,30}:)")
_NEGATIVE = "Negative prompt:"
_TEMPLATE = re.compile(r"(?:^|\n)[ \t]*(Template|Negative Template)[ \t]*:[ \t]*")
_UNNAMED = "(unnamed)"


@dataclass
class Parts:
    """prompt, negative: as written, lines stripped. settings: by their names there, unquoted, in order."""

    prompt: str = ""
    negative: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def take_apart(text: str) -> Parts:
    """Take A1111's text apart; what isn't there stays empty.

    The settings are the last line that begins with `Steps:`; without one, the last with three names that
    are known; without that, what follows `Steps: 20, Sampler: …` within a line, as sites write it that
    lose line breaks. What stands between them and the prompt's `Negative prompt:` line is the negative.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\ufeff\0 \n\t")
    start, within = _settings_start(text)
    head, tail = text[:start], text[start:]
    found = list(_TEMPLATE.finditer(tail))
    parts = Parts(settings=_pairs(tail[: found[0].start()] if found else tail))
    for index, template in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(tail)
        parts.settings[template[1]] = tail[template.end() : end].strip()
    parts.prompt, parts.negative = _prompts(head, within)
    return parts


def _settings_start(text: str) -> tuple[int, bool]:
    """Return where the settings begin (the text's end: nowhere), and whether that is within a line."""
    for found in reversed(list(_LINE_START.finditer(text))):
        names = _names(text[found.end() : found.end() + 2000])
        if len(names) > 1 or re.fullmatch(r"(?i)steps\s*:\s*\d+\s*,?\s*", text[found.end() :]):
            return found.end(), False
    start = len(text)
    for line in reversed(text.split("\n")[-8:]):
        start -= len(line)
        if len(_names(line[:4000])) > 2 and _KEY.match(line.strip()):
            if not _names(line[: line.find(":") + 1]):
                break  # a prompt and its settings on one line
            return start, False
        start -= 1
    for found in reversed(list(_WITHIN.finditer(text))):
        if len(_names(text[found.end() : found.end() + 2000])) > 2:
            return found.end(), True
    return len(text), False


def _names(line: str) -> set[str]:
    """The known settings' names in a line, each at its begin or behind a comma."""
    found = re.findall(r"(?:^|[,\n])\s*(\w[\w \-/]{0,40}?)\s*:", line)
    return {name.casefold() for name in found} & _KNOWN


def _prompts(head: str, within: bool) -> tuple[str, str]:
    """Part the text before the settings at its line `Negative prompt:`, or within a line."""
    if within and f"\n{_NEGATIVE}" not in f"\n{head}":
        head = head.replace(_NEGATIVE, f"\n{_NEGATIVE}", 1)
    prompt: list[str] = []
    negative: list[str] = []
    lines = prompt
    for line in head.strip().split("\n"):
        line = line.strip()
        if line.startswith(_NEGATIVE):
            lines, line = negative, line[len(_NEGATIVE) :].strip()
        lines.append(line)
    return "\n".join(prompt).strip(), "\n".join(negative).strip()


def _pairs(text: str) -> dict[str, str]:
    """Read `name: value, name: value …`; commas and colons in quotes and brackets are the value's."""
    pairs: dict[str, str] = {}
    last, position = "", 0
    while position < len(text):
        if text[position] in ", \t\n":
            position += 1
            continue
        key = _KEY.match(text, position)
        if key is None:
            end = _end(text, position)
            # A comma in an unquoted value: it belongs to names and texts, not to numbers.
            name = last if last and not re.fullmatch(r"[+-]?[\d.]+(x\d+)?", pairs[last]) else _UNNAMED
            pairs[name] = (
                f"{pairs[name]}, {text[position:end].strip()}" if name in pairs else text[position:end]
            )
            position = end
            continue
        value, position = _value(text, key.end())
        last = key[1]
        pairs[last] = value
    return pairs


def _value(text: str, start: int) -> tuple[str, int]:
    """Return the value that begins at `start`, and where it ends."""
    if start < len(text) and text[start] == '"' and (quoted := _QUOTED.match(text, start)):
        try:
            return str(json.loads(quoted[0], strict=False)), quoted.end()
        except (ValueError, RecursionError):
            return quoted[0][1:-1], quoted.end()
    if start < len(text) and text[start] in "[{":
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            end = _end(text, start)
        else:
            end = max(end, _end(text, end))  # further brackets behind it
        return text[start:end].strip(), end
    end = _end(text, start)
    return text[start:end].strip(), end


def _end(text: str, start: int) -> int:
    """Where a value without quotes ends: at a comma or at the line's end."""
    found = re.compile(r"[,\n]").search(text, start)
    return found.start() if found else len(text)
