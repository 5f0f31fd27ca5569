"""Further methods of PEFT's, for linear layers: each a row over PEFT's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.through_peft import Tuner, row_through_peft
from pipelines.methods.tuning import Size, Tuning, divides, sides, tuned

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


def _config(
    config_class: str, size: str, dropout_field: str = "", alpha_field: str = "", **fixed: Any
) -> Callable[[int, float, Sequence[str], float], PeftConfig]:
    """Make a row's `peft_config`: the rank goes to the field `size`, the others where there are any."""

    def make(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
        """A configuration that starts as identity. Raises: AdapterError for a dropout it can't have."""
        import peft

        if dropout and not dropout_field:
            raise AdapterError(f"{config_class.removesuffix('Config')} has no dropout, got {dropout}; give 0")
        fields = {size: rank, dropout_field: dropout, alpha_field: alpha, **fixed}
        fields.pop("", None)
        return getattr(peft, config_class)(target_modules=list(target_modules), **fields)

    return make


FREQUENCIES = 128
"""Numbers per module and unit of rank where a spectrum is learned: rank 8 gives the papers' 1,000."""


def _spectrum(
    make: Callable[[int, float, Sequence[str], float], PeftConfig],
) -> Callable[[Size, Sequence[str]], PeftConfig]:
    return lambda size, targets: make(FREQUENCIES * size.rank, 1.0, targets, 0.0)


def _spectrum_misfit(module: nn.Module, size: Size) -> str | None:
    outputs, inputs = sides(module)
    count = FREQUENCIES * size.rank
    if count <= outputs * inputs:
        return None
    return f"rank {size.rank} is {count} numbers, it has {outputs * inputs} weights"


def _miss_misfit(module: nn.Module, size: Size) -> str | None:
    inputs = sides(module)[1]
    return None if size.rank <= inputs else f"rank {size.rank} is more than its {inputs} inputs"


def _c3a_misfit(module: nn.Module, size: Size) -> str | None:
    outputs, inputs = sides(module)
    return divides("a block", size.rank, inputs=inputs, outputs=outputs)


def _road_misfit(module: nn.Module, size: Size) -> str | None:
    return divides("a group", size.rank, outputs=sides(module)[0])


def _gralora_misfit(module: nn.Module, size: Size) -> str | None:
    outputs, inputs = sides(module)
    return divides("a split", 2, inputs=inputs, outputs=outputs)


_MISS_CONFIG = _config("MissConfig", "r", "miss_dropout")
_C3A_CONFIG = _config("C3AConfig", "block_size", init_weights=True)
_FOURIERFT_CONFIG = _config("FourierFTConfig", "n_frequency", init_weights=True)
_WAVEFT_CONFIG = _config("WaveFTConfig", "n_frequency")
_ROAD_CONFIG = _config("RoadConfig", "group_size")
_DELORA_CONFIG = _config("DeloraConfig", "r", "module_dropout")
_GRALORA_CONFIG = _config("GraloraConfig", "r", "gralora_dropout", "alpha")

MISS = row_through_peft(
    Tuner(
        config_class="MissConfig",
        parts=(Part(name="miss_block", peft="miss_block"),),
        # PEFT keeps its variant ("bat", "mini") in `init_weights`.
        fields={"init_weights": True, "mini_r": 1},
        sizes=lambda parts: {"r": int(parts["miss_block"].shape[-1 if parts["miss_block"].ndim == 3 else 0])},
        settled=("miss_dropout",),
    ),
    id="miss",
    label="MiSS",
    paper="https://arxiv.org/abs/2409.15371",
    peft_type="MISS",
    peft_config=_MISS_CONFIG,
    rank=lambda factors: int(factors.parts["miss_block"].shape[0]),
    tunings=(
        Tuning(
            id="miss",
            label="MiSS",
            paper="https://arxiv.org/abs/2409.15371",
            summary="one small block repeated over the inputs: quick and light",
            sits_on=("linear",),
            peft_config=tuned(_MISS_CONFIG),
            misfit=_miss_misfit,
            uses=frozenset({"rank", "dropout"}),
            learning_rate=4e-4,
        ),
    ),
)

C3A = row_through_peft(
    Tuner(
        config_class="C3AConfig",
        parts=(Part(name="c3a_kernel", peft="c3a_kernel"),),
        sizes=lambda parts: {"block_size": int(parts["c3a_kernel"].shape[-1])},
        patterns={"block_size": "block_size_pattern"},
        settled=("block_size",),
    ),
    id="c3a",
    label="C³A",
    paper="https://arxiv.org/abs/2407.19342",
    peft_type="C3A",
    peft_config=_C3A_CONFIG,
    rank=lambda factors: int(factors.parts["c3a_kernel"].shape[-1]),
    tunings=(
        Tuning(
            id="c3a",
            label="C³A",
            paper="https://arxiv.org/abs/2407.19342",
            summary="circular convolutions in blocks: full rank from few numbers",
            sits_on=("linear",),
            peft_config=tuned(_C3A_CONFIG),
            misfit=_c3a_misfit,
            uses=frozenset({"rank"}),
            learning_rate=3e-3,
        ),
    ),
)

FOURIERFT = row_through_peft(
    Tuner(
        config_class="FourierFTConfig",
        parts=(Part(name="spectrum", peft="fourierft_spectrum"),),
        fields={"scaling": 150.0, "random_loc_seed": 777},
        sizes=lambda parts: {"n_frequency": int(parts["spectrum"].shape[0])},
        patterns={"n_frequency": "n_frequency_pattern"},
        settled=("n_frequency", "proportional_parameters"),
    ),
    id="fourierft",
    label="FourierFT",
    paper="https://arxiv.org/abs/2405.03003",
    peft_type="FOURIERFT",
    peft_config=_FOURIERFT_CONFIG,
    tunings=(
        Tuning(
            id="fourierft",
            label="FourierFT",
            paper="https://arxiv.org/abs/2405.03003",
            summary="some frequencies of the change: few numbers that reach every weight",
            sits_on=("linear",),
            peft_config=_spectrum(_FOURIERFT_CONFIG),
            misfit=_spectrum_misfit,
            uses=frozenset({"rank"}),
            learning_rate=2.5e-3,
        ),
    ),
)

WAVEFT = row_through_peft(
    Tuner(
        config_class="WaveFTConfig",
        parts=(Part(name="wavelets", peft="waveft_spectrum"),),
        fields={"scaling": 25.0, "random_loc_seed": 777, "wavelet_family": "db1", "use_idwt": True},
        sizes=lambda parts: {"n_frequency": int(parts["wavelets"].shape[0])},
        patterns={"n_frequency": "n_frequency_pattern"},
        settled=("n_frequency", "proportional_parameters"),
    ),
    id="waveft",
    label="WaveFT",
    paper="https://arxiv.org/abs/2505.12532",
    peft_type="WAVEFT",
    peft_config=_WAVEFT_CONFIG,
    tunings=(
        Tuning(
            id="waveft",
            label="WaveFT",
            paper="https://arxiv.org/abs/2505.12532",
            summary="some wavelets of the change: few numbers, each in its place",
            sits_on=("linear",),
            peft_config=_spectrum(_WAVEFT_CONFIG),
            misfit=_spectrum_misfit,
            uses=frozenset({"rank"}),
            learning_rate=1e-4,
        ),
    ),
)

ROAD = row_through_peft(
    Tuner(
        config_class="RoadConfig",
        parts=(Part(name="road_theta", peft="road_theta"), Part(name="road_alpha", peft="road_alpha")),
        fields={"variant": "road_1", "group_size": 64},
        bias=True,
    ),
    id="road",
    label="RoAd",
    paper="https://arxiv.org/abs/2409.00119",
    peft_type="ROAD",
    peft_config=_ROAD_CONFIG,
    rank=lambda factors: int(factors.options.get("group_size", 64)),
    tunings=(
        Tuning(
            id="road",
            label="RoAd",
            paper="https://arxiv.org/abs/2409.00119",
            summary="turns pairs of outputs: as small as IA³, with more to say",
            sits_on=("linear",),
            peft_config=tuned(_ROAD_CONFIG),
            misfit=_road_misfit,
            uses=frozenset({"rank"}),
            rank_multiple=2,
            decays=False,
            learning_rate=2e-3,
        ),
    ),
)

DELORA = row_through_peft(
    Tuner(
        config_class="DeloraConfig",
        parts=(
            Part(name="delora_a", peft="delora_A"),
            Part(name="delora_b", peft="delora_B"),
            Part(name="delora_lambda", peft="delora_lambda"),
            Part(name="delora_w_norm", peft="delora_w_norm"),
        ),
        sizes=lambda parts: {"r": int(parts["delora_a"].shape[0])},
        patterns={"r": "rank_pattern"},
        settled=("delora_lambda", "lambda_pattern"),
    ),
    id="delora",
    label="DeLoRA",
    paper="https://arxiv.org/abs/2503.18225",
    peft_type="DELORA",
    peft_config=_DELORA_CONFIG,
    rank=lambda factors: int(factors.parts["delora_a"].shape[0]),
    tunings=(
        Tuning(
            id="delora",
            label="DeLoRA",
            paper="https://arxiv.org/abs/2503.18225",
            summary="LoRA of a bounded length: stays near the base however long it learns",
            sits_on=("linear",),
            peft_config=tuned(_DELORA_CONFIG),
            uses=frozenset({"rank", "dropout"}),
            decays=False,
            learning_rate=3e-5,
        ),
    ),
)

GRALORA = row_through_peft(
    Tuner(
        config_class="GraloraConfig",
        parts=(
            Part(name="gralora_a", peft="gralora_A"),
            Part(name="gralora_b", peft="gralora_B"),
            Part(name="general_a", peft="gralora_A_general.weight", optional=True),
            Part(name="general_b", peft="gralora_B_general.weight", optional=True),
        ),
        fields={"alpha": 64},
        settled=("gralora_k", "hybrid_r", "gralora_dropout"),
        sizes=lambda parts: {
            "hybrid_r": int(parts["general_a"].shape[0]) if "general_a" in parts else 0,
            "gralora_k": int(parts["gralora_a"].shape[0]),
            "r": int(parts["gralora_a"].shape[2]),
        },
    ),
    id="gralora",
    label="GraLoRA",
    paper="https://arxiv.org/abs/2505.20355",
    peft_type="GRALORA",
    peft_config=_GRALORA_CONFIG,
    rank=lambda factors: int(factors.parts["gralora_a"].shape[2]),
    tunings=(
        Tuning(
            id="gralora",
            label="GraLoRA",
            paper="https://arxiv.org/abs/2505.20355",
            summary="LoRA cut into tiles: more of it at high ranks",
            sits_on=("linear",),
            peft_config=tuned(_GRALORA_CONFIG),
            misfit=_gralora_misfit,
            rank_multiple=2,
            learning_rate=3e-4,
        ),
    ),
)

MORE: tuple[Method, ...] = (MISS, C3A, FOURIERFT, WAVEFT, ROAD, DELORA, GRALORA)
