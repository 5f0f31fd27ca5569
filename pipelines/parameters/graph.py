"""A ComfyUI graph, walked safely: broken links, cycles and hostile sizes end a walk, never a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import PictureError
from pipelines.parameters.restored import MAX_TEXT

MAX_NODES = 5000
_STEPS = 20_000
"""Nodes looked at while a graph is read, each as often as it is come to."""

# Inputs under which nodes for single values hold them, the likeliest first.
_VALUES = (
    "value", "seed", "noise_seed", "text", "string", "int", "float", "number", "Number", "Text", "prompt",
    "positive", "text_positive", "wildcard_text", "populated_text", "STRING", "a",
)  # fmt: skip
_JOINED = (
    ("string_a", "string_b"),
    ("text_a", "text_b", "text_c", "text_d"),
    ("text1", "text2", "text3", "text4"),
    ("string1", "string2", "string3"),
    ("prefix", "suffix"),
)


@dataclass(frozen=True)
class Node:
    """One node: its number, its class, and its inputs, which are values or links [number, slot]."""

    number: str
    kind: str
    inputs: dict[str, Any]


@dataclass
class Graph:
    """The nodes by number; `steps` are left until walking stops."""

    nodes: dict[str, Node]
    steps: int = _STEPS
    seen: set[str] = field(default_factory=set)

    def linked(self, node: Node, name: str) -> tuple[Node, int] | None:
        """Return the node behind an input and its slot, or None for a value or a broken link."""
        link = node.inputs.get(name)
        if not (isinstance(link, list) and len(link) == 2 and isinstance(link[1], int)):
            return None
        self.steps -= 1
        found = self.nodes.get(str(link[0])[:100]) if self.steps > 0 else None
        if found is None:
            return None
        self.seen.add(found.number)
        return found, link[1]

    def back(self, node: Node, *names: str) -> Iterator[tuple[Node, int]]:
        """Yield the nodes behind a node, one after the other along the first of `names` that is linked."""
        been = {node.number}
        while True:
            found = next((f for name in names if (f := self.linked(node, name)) is not None), None)
            if found is None or found[0].number in been:
                return
            yield found
            node = found[0]
            been.add(node.number)

    def value(self, node: Node, name: str) -> Any:
        """Return an input's value, through nodes that only hold, join or show one; None: not to be had."""
        return self._held(node, name, 0)

    def _held(self, node: Node, name: str, depth: int) -> Any:
        value = node.inputs.get(name)
        if not isinstance(value, list):
            return None if isinstance(value, dict) else value
        found = self.linked(node, name)
        if found is None or depth > 50:
            return None
        behind = found[0]
        for names in _JOINED:
            if all(key in behind.inputs for key in names[:2]):
                return self._join(behind, names, depth)
        for key in _VALUES:
            if key in behind.inputs:
                return self._held(behind, key, depth + 1)
        plain = [key for key, held in behind.inputs.items() if isinstance(held, str | int | float)]
        return behind.inputs[plain[0]] if len(plain) == 1 else None

    def _join(self, node: Node, names: tuple[str, ...], depth: int) -> str:
        sign = node.inputs.get("delimiter", node.inputs.get("separator", " "))
        parts = [self._held(node, name, depth + 1) for name in names if name in node.inputs]
        text = (sign if isinstance(sign, str) else " ").join(str(part) for part in parts if part)
        return text[:MAX_TEXT]


def read_graph(text: str) -> Graph:
    """Read ComfyUI's `prompt` JSON.

    Raises: PictureError for text that is no such graph, or one too large.
    """
    if len(text) > MAX_TEXT:
        raise PictureError(f"the ComfyUI graph has {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise PictureError("the picture's ComfyUI graph isn't readable JSON; save it again") from None
    nodes = {}
    for number, node in value.items() if isinstance(value, dict) else ():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            inputs = node.get("inputs")
            nodes[number] = Node(number, node["class_type"][:100], inputs if isinstance(inputs, dict) else {})
    if not nodes:
        raise PictureError("the picture's ComfyUI graph has no nodes; choose a picture that ComfyUI saved")
    if len(nodes) > MAX_NODES:
        raise PictureError(f"the ComfyUI graph has {len(nodes)} nodes, expected at most {MAX_NODES}")
    return Graph(nodes)
