"""PEFT without what it would compile when it is first used."""

from __future__ import annotations


def peft_uncompiled() -> None:
    """Keep PEFT from compiling its CUDA extension for BOFT; called before one of its layers is made.

    torch's `cpp_extension` (2.13) compiles under a lock file that has no owner: a process that is killed
    meanwhile leaves it, and whoever needs the extension from then on waits for ever. It serves BOFT of
    several butterfly factors, which is neither trained here nor handed to PEFT (`pipelines.methods.boft`).
    """
    from peft.tuners.boft import layer

    layer._FBD_CUDA = False  # "asked for, and not there"; None: not asked for yet
