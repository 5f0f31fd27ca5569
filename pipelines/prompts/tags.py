"""Adapters named in a prompt: `<lora:name:0.8>`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pipelines.errors import ConfigError

_TAG = re.compile(r"<(?:lora|lyco):([^>]*)>")
_SHOWN = 60


@dataclass(frozen=True)
class Tag:
    """An adapter named in a prompt.

    weight: on the UNet. text_weight: on the text encoders; None: as `weight`.
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None


def split_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """Take the tags of adapters out of a prompt.

    Read are `<lora:name>`, `<lora:name:0.8>`, `<lora:name:text weight:UNet weight>`, and `te=`, `unet=`
    in the place of the numbers, with `lyco` as another word for `lora`. Other words in angle brackets stay:
    learned words look like that. Where tags were taken, spaces at the prompt's ends go with them.

    Raises: ConfigError for a tag without a name, a weight that is no number, or anything further in it.
    Source: A1111 web UI, `extensions-builtin/Lora/extra_networks_lora.py`.
    """
    tags = tuple(_tag(found[0], found[1]) for found in _TAG.finditer(prompt))
    return (_TAG.sub("", prompt).strip() if tags else prompt), tags


def _tag(whole: str, inside: str) -> Tag:
    shown = whole if len(whole) <= _SHOWN else whole[:_SHOWN] + "…"
    name, *items = inside.split(":")
    if not name.strip():
        raise ConfigError(f"the prompt's {shown!r} names no adapter; write <lora:name:0.8>")
    numbers: list[float] = []
    named: dict[str, float] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            numbers.append(_weight(item, shown))
        elif key.strip() in ("te", "unet") and key.strip() not in named:
            named[key.strip()] = _weight(value, shown)
        else:
            raise ConfigError(
                f"the prompt's {shown!r} holds {item[:_SHOWN]!r}; expected weights only, as in "
                "<lora:name:0.8> or <lora:name:te=0.5:unet=0.8>"
            )
    if len(numbers) > 2:
        raise ConfigError(
            f"the prompt's {shown!r} holds {len(numbers)} weights, expected at most 2; write "
            "<lora:name:text weight:UNet weight>"
        )
    text = named.get("te", numbers[0] if numbers else 1.0)
    unet = named.get("unet", numbers[1] if len(numbers) > 1 else text)
    return Tag(name.strip(), unet, None if text == unet else text)


def _weight(text: str, shown: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"the prompt's {shown!r} has the weight {text[:_SHOWN]!r}, expected a number; write "
            "<lora:name:0.8>"
        )
    return value
