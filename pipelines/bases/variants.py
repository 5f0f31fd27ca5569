"""Which of a folder's weight files are loaded: variants such as `model.fp16.safetensors`, and shards."""

from __future__ import annotations

import re
from collections.abc import Iterable

# `model.safetensors`, `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`, and the older
# spelling `model-00001-of-00002.fp16.safetensors`.
_NAME = re.compile(
    r"(?P<stem>.+?)(?:\.(?P<variant>\w+))?(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?"
    r"(?:\.(?P<late>\w+))?\.safetensors"
)
STEMS = ("diffusion_pytorch_model", "model")
"""The names that diffusers and transformers save a network's weights under."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pickle", ".pkl")


def choose_weights(names: Iterable[str], *, half: bool) -> tuple[str, ...]:
    """Return the weight files of one network among the file names of its folder; empty where there are none.

    half: whether it is wanted in half precision: then the `fp16` variant comes first where there is one,
    else the files without a variant. Sets of shards count only when they are whole. Other variants
    (`non_ema`) are never taken; a single file under another name is.
    """
    groups: dict[tuple[str, str], dict[int, str]] = {}
    whole: dict[tuple[str, str], int] = {}
    plain = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    for name in plain:
        found = _NAME.fullmatch(name)
        if found is None or found["stem"] not in STEMS:
            continue
        key = (found["stem"], found["variant"] or found["late"] or "")
        shards = int(found["shards"] or 1)
        if not found["shards"]:
            groups[key], whole[key] = {1: name}, 1
        elif whole.get(key) != 1:
            groups.setdefault(key, {})[int(found["shard"])] = name
            whole[key] = shards
    for variant in ("fp16", "") if half else ("", "fp16"):
        for stem in STEMS:
            files = groups.get((stem, variant), {})
            if files and len(files) == whole[stem, variant]:
                return tuple(files[index] for index in sorted(files))
    return (plain[0],) if len(plain) == 1 and not groups else ()
