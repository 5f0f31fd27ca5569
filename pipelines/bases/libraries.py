"""diffusers and transformers: imported fast, told to be quiet, and what a pipeline takes beside its parts."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.bases.postponing import LATER, Names, postponed


def _itself(decorated: Any) -> Any:
    return decorated


def _disable(function: Any = None, *_: object, **__: object) -> Any:
    return _itself if function is None else function


def _graph_break(*_: object, **__: object) -> None:
    pass


_COMPILER = "torch._dynamo"
"""Every optimizer's step imports it too, and tells it where compiled code would break."""

_MODELS = "transformers.models"
"""Reads some thousand files to know what is in those below, which `import transformers` has done before."""

UNUSED: Mapping[str, Names] = {
    # Until the compiler is used, these only mark what is decorated for it.
    _COMPILER: {
        "allow_in_graph": _itself, "assume_constant_result": _itself, "disable": _disable,
        "graph_break": _graph_break,
    },
    f"{_COMPILER}._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": LATER},
    "torch.distributed._composable.fsdp": {"fully_shard": LATER},
    "torch.distributed.fsdp": dict.fromkeys(
        ("CPUOffloadPolicy", "FullyShardedDataParallel", "MixedPrecisionPolicy"), LATER
    ),
    "torch.distributed.checkpoint": {},
    "torch.distributed.checkpoint.hf_storage": dict.fromkeys(
        ("HuggingFaceStorageReader", "HuggingFaceStorageWriter"), LATER
    ),
    _MODELS: {},
    "transformers.quantizers": {"HfQuantizer": LATER},
    "transformers.quantizers.auto": {"get_hf_quantizer": LATER},
    "transformers.quantizers.quantizers_utils": dict.fromkeys(
        ("get_module_from_name", "should_convert_module"), LATER
    ),
    "scipy.integrate": {},
    "scipy.optimize": {"linear_sum_assignment": LATER},
    "scipy.stats": {},
    "peft": {},
    "peft.helpers": {"disable_input_dtype_casting": LATER},
    "peft.tuners": {},
    "peft.tuners.tuners_utils": {"BaseTunerLayer": LATER},
}  # fmt: skip
"""What importing a base's classes drags in, and what is asked of it (a test holds these names)."""


_PEFT = ("peft", "peft.tuners", "peft.tuners.tuners_utils")  # each call of a UNet asks for it
_LASTING = (_COMPILER, _MODELS, *_PEFT)


def load_libraries() -> None:
    """Import what every base is made of: once, before anything else imports it, in half of the time.

    What isn't used is postponed (see `pipelines.bases.postponing`), and garbage isn't looked for meanwhile,
    since an import leaves none. What is there afterwards isn't looked through again: it stays until the end.
    """
    if "diffusers" in sys.modules or "transformers" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch
        import torch.optim  # noqa: F401

        with postponed(UNUSED, lasting=_LASTING, packages=[_MODELS]):
            from accelerate import init_empty_weights  # noqa: F401
            from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
            from transformers import (  # noqa: F401
                CLIPTextModel,
                CLIPTextModelWithProjection,
                CLIPTokenizer,
            )
            from transformers.initialization import no_init_weights  # noqa: F401

            DDIMScheduler().compatibles  # noqa: B018 - making any from a config imports all of these
        gc.freeze()
    finally:
        if collecting:
            gc.enable()


def pipeline_extras(pipeline_class: type, zero_empty: bool) -> dict[str, Any]:
    """Return what a pipeline class wants beside the parts: no safety checker, no watermark, the zeroing."""
    import inspect

    wanted = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
        "force_zeros_for_empty_prompt": zero_empty,
        "add_watermarker": False,
    }
    taken = inspect.signature(pipeline_class).parameters
    return {name: value for name, value in wanted.items() if name in taken}


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars and notes while something is loaded; errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
