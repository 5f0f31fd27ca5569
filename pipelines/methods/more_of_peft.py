"""Further methods of PEFT's, for linear layers: each a row over PEFT's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.through_peft import Tuner, row_through_peft

if TYPE_CHECKING:
    from peft import PeftConfig


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
    peft_config=_config("MissConfig", "r", "miss_dropout"),
    rank=lambda factors: int(factors.parts["miss_block"].shape[0]),
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
    peft_config=_config("C3AConfig", "block_size", init_weights=True),
    rank=lambda factors: int(factors.parts["c3a_kernel"].shape[-1]),
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
    peft_config=_config("FourierFTConfig", "n_frequency", init_weights=True),
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
    peft_config=_config("WaveFTConfig", "n_frequency"),
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
    peft_config=_config("RoadConfig", "group_size"),
    rank=lambda factors: int(factors.options.get("group_size", 64)),
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
    peft_config=_config("DeloraConfig", "r", "module_dropout"),
    rank=lambda factors: int(factors.parts["delora_a"].shape[0]),
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
    peft_config=_config("GraloraConfig", "r", "gralora_dropout", "alpha"),
    rank=lambda factors: int(factors.parts["gralora_a"].shape[2]),
)

MORE: tuple[Method, ...] = (MISS, C3A, FOURIERFT, WAVEFT, ROAD, DELORA, GRALORA)
