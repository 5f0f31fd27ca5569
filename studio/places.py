"""Which folders and files of this machine may be named on the page, and by whom.

Where nobody logs in, only whoever sits at the machine comes to the page, and may name what they can read.
Accounts are for others: they name nothing outside of their own workspace, and aren't told what is there. What
they need of it, the machine's own person lists by the command line: `pigment base add`, `--base`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError
from studio.workspace import ROOMS, Workspace

if TYPE_CHECKING:
    from studio.context import Context


def named(context: Context, said: str, what: str) -> Path:
    """The whole path of a folder or file that was named on the page.

    what: what it is asked for, for the message.

    Raises:
        ConfigError: it isn't whole (the processes that read it run elsewhere), or it lies where who named it
            has no say.
    """
    try:
        path = Path(said.strip()).expanduser()
        whole, found = path.is_absolute(), path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise ConfigError(
            f"{what}: {said[:80]!r} is no path; give a whole one, such as /home/me/it"
        ) from None
    if not context.alone and not _inside(found, context.workspace):
        raise ConfigError(
            f"{what}: {said[:80]!r} isn't in the workspace, and who logs in names nothing else of this "
            "machine; ask whoever runs Pigment to list it"
        )
    if not whole:
        raise ConfigError(f"{what}: {said[:80]!r} isn't a whole path; give one such as /home/me/it")
    return path


def _inside(found: Path, workspace: Workspace) -> bool:
    """Whether a path lies in a workspace; not it as a whole, nor the rooms of others that lie below it."""
    if found == workspace.root or not found.is_relative_to(workspace.root):
        return False
    # Some disks take capitals and small letters for the same.
    return found.relative_to(workspace.root).parts[0].casefold() != ROOMS


def check_ref(context: Context, ref: str, what: str) -> None:
    """Refuse a model that is named by a path where `named` would; hub ids pass.

    Raises: ConfigError.
    """
    from pipelines.bases.hub_local import hub_ref

    said = ref.strip()
    # What looks like a hub id may be a folder below the one that Pigment was started in.
    if said and not context.alone and (hub_ref(said) is None or Path(said).exists()):
        named(context, said, what)
