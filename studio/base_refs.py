"""What a person may write for a base, and what a base may be called."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import BaseError, ConfigError

POCKET = "pocket"
NAME_LENGTH = 80  # characters


def local_ref(ref: str) -> str | None:
    """A ref that needs no list of names: "pocket", or the whole path of a folder or file that is there.

    Raises:
        BaseError: it is there and can't be a base.
    """
    if ref == POCKET:
        return ref
    try:
        path = Path(ref).expanduser()
        if not path.exists():
            return None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{ref[:80]!r} is no path that can be looked up: {reason[:100]}") from None
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise BaseError(
            f"base {ref!r} is a folder without model_index.json; give a folder in diffusers' layout, a "
            ".safetensors file, a hub id or “pocket”"
        )
    if path.is_file() and path.suffix.lower() != ".safetensors":
        from pipelines.bases.variants import PICKLES

        kind = (
            "pickle file, which is never opened" if path.suffix.lower() in PICKLES else "file of another kind"
        )
        raise BaseError(
            f"base {ref!r} is a {kind}; convert it to .safetensors or a diffusers folder elsewhere"
        )
    return str(path.resolve())


def hub_id(ref: str) -> str | None:
    """A ref as a hub id, or None where it can't be one."""
    from pipelines.bases.hub_local import hub_ref

    found = hub_ref(ref)
    return None if found is None else str(found)


def name_of(ref: str) -> str:
    """A base's name from its ref: the file's stem, the folder's, or the repository's."""
    name = ref.split("@")[0].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].removesuffix(".safetensors")
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:NAME_LENGTH] or "base"


def clean(name: str) -> str:
    """A name on one line.

    Raises:
        BaseError: it could be taken for a path or a hub id, is too long, or is the embedded base's.
    """
    cleaned = " ".join(name.split())
    if cleaned == POCKET:
        raise BaseError("“pocket” is the embedded base; choose another name with --name")
    if not cleaned or len(cleaned) > NAME_LENGTH or not cleaned.isprintable():
        raise BaseError(f"{name[:90]!r} can't be a base's name; give 1 to {NAME_LENGTH} plain characters")
    if any(sign in cleaned for sign in "/\\@:~") or cleaned.lower().endswith(".safetensors"):
        raise BaseError(
            f"{cleaned!r} could be a path; leave / \\ @ : ~ and .safetensors out of a base's name"
        )
    return cleaned
