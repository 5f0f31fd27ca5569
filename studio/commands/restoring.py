"""Bases and adapters that a picture, a settings file or a prompt names, found among those here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.mixing.weights import Weights
from studio.amending import check
from studio.commands.arguments import place, the_library
from studio.commands.uses import Use, add_uses, uses_of

if TYPE_CHECKING:
    from pipelines.parameters import Restored
    from pipelines.prompts.tags import Tag
    from studio.library import Entry


def base_of(restored: Restored, args: argparse.Namespace) -> str | None:
    """The base that a picture names, among those here; None where it says none or another is asked for.

    Raises: ConfigError where it isn't here.
    """
    hint = restored.base
    if args.base is not None or hint.name is None:
        return None
    from studio.bases import Bases, local_ref
    from studio.workspace import Workspace

    if hint.name == "pocket" or (restored.source == "pigment" and local_ref(hint.name) is not None):
        return hint.name
    entries = Bases(Workspace.open(args.workspace, own=False)).entries()
    for entry in entries:
        if hint.hash and entry.sha256.startswith(hint.hash.lower()):
            return entry.name
    stem = Path(hint.name).stem.casefold()
    for entry in entries:
        if stem in (entry.name.casefold(), Path(entry.ref).stem.casefold()):
            return entry.name
    names = [entry.name for entry in entries]
    raise ConfigError(
        f"the picture was made with base {hint.name[:80]!r}, which isn't here"
        f"{nearest(hint.name, names) if names else ''}; give another with --base"
    )


def take_vae(restored: Restored, args: argparse.Namespace, notes: list[str]) -> None:
    """Put the VAE that a picture of Pigment's was drawn with beside its base, where the file is still there.

    Of other pictures, and where it isn't, the name is said; another base or VAE that is asked for stands.
    """
    name = restored.base.vae
    if name is None or args.base is not None or args.vae is not None:
        return
    if restored.source == "pigment" and place(name).exists():
        args.vae = name
    else:
        notes.append(f"the picture was made with VAE {name[:80]!r}, which isn't taken; give it with --vae")


def adapters_of(restored: Restored, args: argparse.Namespace, notes: list[str]) -> list[Use]:
    """The adapters that a picture names."""
    if exact := restored.fields.get("adapters"):
        return _named([(one.name, one.sha256, one.weights()) for one in exact], args, notes)
    hints = restored.adapters
    weights = [Weights(unet=hint.weight, text=hint.text_weight) for hint in hints]
    named = zip(hints, weights, strict=True)
    return _named([(hint.name, hint.hash, weight) for hint, weight in named], args, notes)


def _named(
    wanted: Sequence[tuple[str, str | None, Weights]], args: argparse.Namespace, notes: list[str]
) -> list[Use]:
    """Find adapters in the library by hash or name. Raises: AdapterError for one that isn't there."""
    entries = the_library(args).entries() if wanted else []
    found: list[Use] = []
    for name, sha256, weights in wanted:
        entry = _entry(entries, name, sha256)
        if entry is None:
            known = f" (SHA-256 {sha256[:12]}…)" if sha256 else ""
            raise AdapterError(
                f"the picture was made with adapter {name[:80]!r}{known}, which isn't in the library"
                f"{nearest(name, [one.short for one in entries])}; import it, or give --adapter"
            )
        if sha256 and not entry.sha256.startswith(sha256.lower()):
            notes.append(f"adapter {entry.name!r} is taken by its name; its file is another one")
        check(entry)
        found = add_uses(found, [Use(entry.name, entry.path, weights)])
    return found


def adapters_listed(listed: Any, args: argparse.Namespace, notes: list[str]) -> list[Use]:
    """The adapters of a settings file: in the words of `--adapter`, or as a picture's settings have them.

    Raises: ConfigError for anything else; AdapterError for one that isn't there.
    """
    from pipelines.generation import AdapterUse

    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        return uses_of(listed, args)
    try:
        records = [AdapterUse.model_validate(one) for one in listed]
    except (TypeError, ValueError):
        raise ConfigError(
            f'adapters is {str(listed)[:60]!r}, expected a list of texts, as ["zib:0.8"]'
        ) from None
    return _named([(one.name, one.sha256, one.weights()) for one in records], args, notes)


def adapters_tagged(tags: Sequence[Tag], args: argparse.Namespace) -> list[Use]:
    """The adapters that a prompt's tags name, out of the library. Raises: AdapterError."""
    if not tags:
        return []
    entries = the_library(args).entries()
    found = []
    for tag in tags:
        entry = _entry(entries, tag.name, None)
        if entry is None:
            raise AdapterError(
                f"the prompt names the adapter {tag.name[:80]!r}, which isn't in the library"
                f"{nearest(tag.name, [one.short for one in entries])}"
            )
        check(entry)
        found.append(Use(entry.name, entry.path, Weights(unet=tag.weight, text=tag.text_weight)))
    return found


def _entry(entries: Sequence[Entry], name: str, sha256: str | None) -> Entry | None:
    """The library's adapter of that hash (its first digits), else of that name in any case, else None."""
    by_hash = [one for one in entries if sha256 and one.sha256.startswith(sha256.lower())]
    by_name = [one for one in entries if one.called(name)]
    return next(iter([*by_hash, *by_name]), None)
