"""Fields of PEFT's `adapter_config.json` that several methods share: ranks and alphas per module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.errors import AdapterError

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+")


def pattern_value(patterns: Any, path: str, default: Any) -> Any:
    """Return what `rank_pattern` or `alpha_pattern` says for a module path, or `default`.

    The first pattern that the path equals or ends with wins, as PEFT has it. Patterns are regular
    expressions there; only names are read here, with "^", "$" and escaped dots.
    Raises: AdapterError for any other pattern.
    """
    if not patterns:
        return default
    if not isinstance(patterns, Mapping):
        raise AdapterError("adapter_config.json has a pattern field that is no table of module names")
    for pattern, value in patterns.items():
        whole = pattern.startswith("^")
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not _PLAIN.fullmatch(plain):
            raise AdapterError(
                f"adapter_config.json has the pattern {pattern[:60]!r}; only module names are read: "
                "write them out"
            )
        if path == plain or (not whole and path.endswith(f".{plain}")):
            return value
    return default


def number(value: Any, field: str) -> float:
    """Return a config's value as a finite number. Raises: AdapterError naming the field."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) < float("inf"):
        raise AdapterError(f"adapter_config.json has {field} = {str(value)[:40]!r}; expected a number")
    return float(value)


def common_and_patterns(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the commonest value, and the others by module path."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {path: value for path, value in values.items() if value != common}


def shared_value(values: Mapping[str, Any], what: str) -> Any:
    """Return the value that all modules share.

    Raises: AdapterError where they differ, since PEFT has one for all of them.
    """
    found = set(values.values())
    if len(found) != 1:
        shown = ", ".join(sorted(str(value) for value in found))
        raise AdapterError(
            f"PEFT has one {what} for all modules, this adapter has {shown[:80]}; write it as LoRA"
        )
    return found.pop()
