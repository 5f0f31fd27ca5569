"""`pigment inspect`: what an adapter file, a folder of them, or a recipe is."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError
from studio.commands.arguments import adapter_file, say, the_library
from studio.commands.base_options import refuse_idle_base, refuse_idle_placing, the_base

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base


def inspect(args: argparse.Namespace) -> int:
    """Say what a file, a folder of files, or a recipe is."""
    path = adapter_file(args.file, args)
    from pipelines.formats import inspect_adapter
    from pipelines.formats.peft import is_peft

    if not args.anatomy:
        refuse_idle_base(args, "without --anatomy")
    if args.against_base and not args.anatomy:
        raise ConfigError("--against-base belongs to --anatomy")
    if args.anatomy and (path.suffix.lower() == ".json" or (path.is_dir() and not is_peft(path))):
        raise ConfigError("--anatomy is for one adapter, not for a recipe or a folder of files")
    if path.suffix.lower() == ".json":
        return _inspect_recipe(path, args)
    if path.is_dir() and not is_peft(path):
        return _inspect_folder(path, args)
    info = inspect_adapter(path)
    lines = [
        f"{info['name']}: {info['method']}, {info['family']}, {info['format']} form, {info['bytes']:,} bytes"
    ]
    lines.append(
        f"{info['modules']} modules in {', '.join(info['components'])}; rank {info['rank']}, "
        f"{info['tensors']} tensors, {info['dtype']}"
    )
    if info["triggers"]:
        lines.append(f"triggers: {', '.join(info['triggers'])}")
    shown = {key: value for key, value in info["metadata"].items() if len(value) <= 200}
    lines += [f"  {key}: {value}" for key, value in sorted(shown.items())]
    if left := len(info["metadata"]) - len(shown):
        lines.append(f"  and {left} longer entries (--json shows them)")
    if args.anatomy:
        from pipelines.formats import read_adapter
        from pipelines.tools import anatomy

        adapter = read_adapter(path)
        if args.against_base:
            refuse_idle_placing(args, "inspect")
        base = the_base(args) if args.against_base else weights_of(args, [adapter], "inspect")
        found = anatomy(adapter, base)
        lines.append(found.as_text())
        info = {**info, "anatomy": found.as_dict()}
    say(args, "\n".join(lines), info)
    return 0


def _inspect_folder(path: Path, args: argparse.Namespace) -> int:
    from pipelines.index import index_folder

    def show(done: int, total: int) -> None:
        if done % 200 == 0 and sys.stderr.isatty():
            print(f"\rreading headers: {done} of {total}", end="", file=sys.stderr, flush=True)

    found = index_folder(path, _cache_of(path), show)
    lines = []
    for one in found:
        what = one.error or f"{one.info['method']} rank {one.info['rank']}, {one.info['family']}"
        words = ", ".join(one.info.get("triggers") or ())
        lines.append(f"{one.path.relative_to(path)}: {what}" + (f" [{words}]" if words else ""))
    lines.append(f"{len(found)} files, {sum(bool(one.error) for one in found)} of them refused")
    rows = [
        {"path": str(one.path), "bytes": one.size, "modified": one.modified, "error": one.error, **one.info}
        for one in found
    ]
    say(args, "\n".join(lines), rows)
    return 0


def _cache_of(folder: Path) -> Path | None:
    """Where a folder's headers are remembered: in the user's cache folder; None where none can be made."""
    windows = os.environ.get("LOCALAPPDATA")
    root = Path(windows or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pigment"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return root / f"index-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"


def _inspect_recipe(path: Path, args: argparse.Namespace) -> int:
    from pipelines.recipe import find_adapters, read_recipe

    recipe = read_recipe(path)
    found = find_adapters(recipe, [entry.path for entry in the_library(args).entries()])
    lines = [f"{recipe.name or path.stem}: a mix of {len(recipe.adapters)} on base {recipe.base.ref!r}"]
    for one in recipe.adapters:
        where = found.files.get(one.sha256)
        lines.append(f"  {one.name}: {one.weight:g}" + (f" ({where})" if where else " (missing)"))
    if problem := found.problem():
        lines.append(problem)
    data = {**recipe.model_dump(mode="json"), "missing": [one.sha256 for one in found.missing]}
    say(args, "\n".join(lines), data)
    return 0


def weights_of(args: argparse.Namespace, adapters: Iterable[Adapter], command: str) -> Base | None:
    """The base whose weights adapters' methods need; None of other methods, which then refuse `--base`."""
    from pipelines.methods import METHODS

    methods = sorted({method for adapter in adapters for method in adapter.methods})
    if not any(METHODS[method].needs_weight for method in methods):
        refuse_idle_base(args, f"on {command} of {' and '.join(methods)}")
        return None
    refuse_idle_placing(args, command)
    return the_base(args)
