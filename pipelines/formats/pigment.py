"""Pigment's own form: one file that holds every method, its options and learned tokens exactly.

Keys are `<component>.<path>.<part>` with Pigment's own names throughout and a scalar `.alpha` per
module; tokens are `tokens.<number>.<text encoder>`. What isn't a number lies in the `pigment` JSON of
the metadata: the tokens' names, and which modules have which method and options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipelines.adapter import Adapter, AnyFactors
from pipelines.families import Family
from pipelines.formats.keys import ALPHA, TOKEN, plain_unet_path
from pipelines.methods import METHODS

_TOKENS = "tokens"
_LONGEST = 100  # characters of an option's value
_LONGEST_TOKEN = 256  # characters, as of a tensor's name


@cache
def _part_names() -> frozenset[str]:
    return frozenset(part.name for row in METHODS.values() for part in row.parts) | {ALPHA}


def read_key(key: str, family: Family) -> tuple[str, str] | None:
    """Return the canonical module name and part of a key, or None where it is none."""
    module, _, part = key.rpartition(".")
    component, _, path = module.partition(".")
    if component == _TOKENS:
        return (f"{TOKEN}.{path}", part) if path.isdecimal() and part in family.components else None
    if part not in _part_names() or not path:
        return None
    if component == "unet":
        return None if plain_unet_path(path) is None else (module, part)
    return (module, part) if component in family.components else None


def write_key(module: str, part: str, family: Family) -> str:
    """Return the key of a canonical module name and part."""
    return f"{module}.{part}"


def token_key(index: int, component: str) -> str:
    """Return the key of the vectors of the index-th token for one text encoder."""
    return f"{_TOKENS}.{index}.{component}"


def keep(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """Return the factors as they are: this form holds every alpha."""
    return dict(factors)


def groups(adapter: Adapter) -> dict[str, Any]:
    """Say in JSON's terms what the tensors don't: token names, and the modules' methods and options.

    The commonest pair of method and options comes first and names no modules: it is all others'.
    """
    found: dict[str, list[str]] = {}
    for module, factor in adapter.factors.items():
        pair = json.dumps([factor.method, dict(factor.options)], sort_keys=True, ensure_ascii=False)
        found.setdefault(pair, []).append(module)
    stated = []
    for index, (pair, modules) in enumerate(sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))):
        method, options = json.loads(pair)
        group: dict[str, Any] = {"method": method, "options": options}
        stated.append(group if index == 0 else {**group, "modules": sorted(modules)})
    about: dict[str, Any] = {"groups": stated} if stated else {}
    return about | ({_TOKENS: list(adapter.tokens)} if adapter.tokens else {})


def stated_method(about: Mapping[str, Any], module: str) -> tuple[str, dict[str, Any]] | None:
    """Return (method, options) that the `pigment` JSON states for a module, or None where it is silent.

    The JSON must have passed `problem`.
    """
    rest = None
    for group in about.get("groups", ()):
        pair = (str(group["method"]), dict(group.get("options", {})))
        if "modules" not in group:
            rest = pair
        elif isinstance(group["modules"], list) and module in group["modules"]:
            return pair
    return rest


def problem(about: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the groups that a file's `pigment` JSON states, or None.

    Options are single texts, numbers and flags; anything else would reach a method's arithmetic.
    """
    stated = about.get("groups", [])
    if not isinstance(stated, list):
        return "has groups of modules that aren't a list"
    for group in stated:
        method = group.get("method") if isinstance(group, dict) else group
        if not isinstance(group, dict) or not isinstance(method, str) or method not in METHODS:
            return f"states the method {str(method)[:40]!r}, which isn't known; update Pigment"
        options = group.get("options", {})
        if not isinstance(options, dict):
            return f"states options for {group['method']} that aren't names and values"
        for name, value in options.items():
            plain = isinstance(value, str | int | float) and len(str(value)) <= _LONGEST
            if not plain or (isinstance(value, float) and not abs(value) < float("inf")):
                return (
                    f"states an option {name[:40]!r} for {group['method']} that can't be: {str(value)[:40]!r}"
                )
    return None


def token_name(about: Mapping[str, Any], number: str) -> str | None:
    """Return the token of a number in the keys, or None where the metadata don't name it."""
    names = about.get(_TOKENS)
    if not isinstance(names, list) or int(number) >= len(names):
        return None
    name = names[int(number)]
    plain = (
        isinstance(name, str) and 0 < len(name) <= _LONGEST_TOKEN and all(ord(sign) >= 32 for sign in name)
    )
    return name if plain else None
