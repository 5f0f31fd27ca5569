"""What a device or a machine says when its memory is full, or when it has failed; known without torch."""

from __future__ import annotations

LOST = (
    "the device has failed ({said}); what was kept so far stays: go on with it, and where that comes again, "
    "restart the computer or update the device's driver"
)

_FULL = ("out of memory", "can't allocate memory", "cannot allocate memory")
_FAILED = ("cuda error", "hip error", "device lost", "device is lost", "unspecified launch failure")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the machine's memory is full."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _FULL)


def device_lost(error: BaseException) -> bool:
    """Whether an error says that the device has failed: nothing works on it any more in this process."""
    if not isinstance(error, RuntimeError) or out_of_memory(error):
        return False
    said = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or any(words in said for words in _FAILED)


def lost_line(error: BaseException) -> str:
    """What people are told of a device that has failed."""
    return LOST.format(said=first_line(error))


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of what an error says, `most` characters of it; its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:most].rstrip(".") if text else type(error).__name__
