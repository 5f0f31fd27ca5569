"""What the hub library and the network raise, as one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.bases.hub_local import HubRef, cache_folder, endpoint
from pipelines.errors import BaseError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def explained(ref: HubRef, what: str = "base") -> Iterator[None]:
    """Turn what the hub library and the network raise into one line. what: what is fetched, in messages."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise BaseError(
            f"{what} '{ref}' is gated: accept its terms at {endpoint()}/{ref.repo} and give your token as "
            f"HF_TOKEN; or give a folder"
        ) from None
    except errors.RevisionNotFoundError:
        raise BaseError(f"{ref.repo} has no revision {ref.revision!r}; leave @… out for its newest") from None
    except errors.RepositoryNotFoundError:
        raise BaseError(
            f"no {what} {ref.repo!r}: there is no such folder, and {endpoint()} has no such repository or it "
            f"is private (give your token as HF_TOKEN then); check the name, or give a folder"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise BaseError(
            f"{what} '{ref}' isn't whole on this machine and Pigment was started with HF_HUB_OFFLINE; start "
            f"it without to fetch, or give a folder"
        ) from None
    except errors.HfHubHTTPError as error:
        raise BaseError(_refused(ref, what, error)) from error
    except (errors.HTTPError, OSError) as error:
        raise BaseError(_unreachable(ref, what, error)) from error


def _refused(ref: HubRef, what: str, error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in (401, 403):
        return (f"{endpoint()} refused {what} '{ref}' ({status}): it is private, or the token in HF_TOKEN "
                f"isn't valid for it; check the name and the token, or give a folder")  # fmt: skip
    later = "; try again later" if status == 429 or status >= 500 else ""
    return f"{endpoint()} answered {status or 'wrongly'} for {what} '{ref}'{later}; or give a folder"


def _unreachable(ref: HubRef, what: str, error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        return (f"the disk is full: {what} '{ref}' can't be fetched into {cache_folder()}; make room and run "
                f"it again, it goes on where it stopped")  # fmt: skip
    if isinstance(error, PermissionError):
        return f"{error.filename or cache_folder()} can't be written; name another folder with HF_HOME"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return (f"{what} '{ref}' can't be fetched: no connection to {endpoint()} ({reason}); check the network "
            f"and run it again, it goes on where it stopped; or give a folder")  # fmt: skip
