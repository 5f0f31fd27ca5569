"""The samplers, one row each: a diffusers scheduler and its arguments.

A row says what other programs call it too, so that their pictures' settings find it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

    from pipelines.base import Base

_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Sampler:
    """One way from noise to a picture.

    scheduler: name of a diffusers class. label: A1111's full name for it. arguments: set over what is
    taken from the base's scheduler config (the noise schedule and the prediction type, see `_SCHEDULE`).
    also: other spellings. comfyui: ComfyUI's (sampler_name, scheduler). noisy: whether it draws noise
    along the way, so that its picture doesn't settle with more steps. eta: whether
    `GenerationConfig.eta` has an effect on it.
    """

    scheduler: str
    label: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: _NO_ARGUMENTS)
    also: tuple[str, ...] = ()
    comfyui: tuple[str, str] = ("euler", "normal")
    noisy: bool = False
    eta: bool = False


_KARRAS: dict[str, Any] = {"use_karras_sigmas": True}
_EXPONENTIAL: dict[str, Any] = {"use_exponential_sigmas": True}
_BETA: dict[str, Any] = {"use_beta_sigmas": True}
_TRAILING: dict[str, Any] = {"timestep_spacing": "trailing"}
_ODE: dict[str, Any] = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2}
_SDE: dict[str, Any] = {**_ODE, "algorithm_type": "sde-dpmsolver++"}
_SDE3: dict[str, Any] = {**_SDE, "solver_order": 3}
_SINGLE: dict[str, Any] = {**_ODE, "lower_order_final": True}

_EULER, _EULER_A = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
_HEUN, _DPM2, _DPM2_A = "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"
_MULTI, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_DPM_SDE, _LMS, _UNIPC = "DPMSolverSDEScheduler", "LMSDiscreteScheduler", "UniPCMultistepScheduler"

# "… Automatic" is what A1111 1.9 and later write where the sampler's own schedule is taken.
SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", "DDIM", comfyui=("ddim", "ddim_uniform"), eta=True),
    "ddpm": Sampler("DDPMScheduler", "DDPM", comfyui=("ddpm", "normal"), noisy=True),
    "plms": Sampler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}, ("PNDM",), ("ipndm", "normal")),
    "euler": Sampler(_EULER, "Euler", also=("Euler Automatic", "Euler Normal")),
    "euler_karras": Sampler(_EULER, "Euler Karras", _KARRAS, comfyui=("euler", "karras")),
    "euler_exponential": Sampler(_EULER, "Euler Exponential", _EXPONENTIAL, comfyui=("euler", "exponential")),
    "euler_beta": Sampler(_EULER, "Euler Beta", _BETA, comfyui=("euler", "beta")),
    "euler_sgm_uniform": Sampler(
        _EULER, "Euler SGM Uniform", _TRAILING, ("Euler Trailing",), ("euler", "sgm_uniform")
    ),
    "euler_a": Sampler(
        _EULER_A, "Euler a", {}, ("Euler ancestral", "Euler a Automatic", "Euler a Normal"),
        ("euler_ancestral", "normal"), noisy=True,
    ),
    "heun": Sampler(_HEUN, "Heun", also=("Heun Automatic",), comfyui=("heun", "normal")),
    "heun_karras": Sampler(_HEUN, "Heun Karras", _KARRAS, comfyui=("heun", "karras")),
    "dpm2": Sampler(_DPM2, "DPM2", also=("KDPM2",), comfyui=("dpm_2", "normal")),
    "dpm2_karras": Sampler(
        _DPM2, "DPM2 Karras", _KARRAS, ("KDPM2 Karras", "DPM2 Automatic"), ("dpm_2", "karras")
    ),
    "dpm2_a": Sampler(
        _DPM2_A, "DPM2 a", {}, ("DPM2 ancestral", "KDPM2 a"), ("dpm_2_ancestral", "normal"), noisy=True
    ),
    "dpm2_a_karras": Sampler(
        _DPM2_A, "DPM2 a Karras", _KARRAS, ("DPM2 ancestral Karras", "KDPM2 a Karras", "DPM2 a Automatic"),
        ("dpm_2_ancestral", "karras"), noisy=True,
    ),
    "dpmpp_2m": Sampler(_MULTI, "DPM++ 2M", _ODE, comfyui=("dpmpp_2m", "normal")),
    "dpmpp_2m_karras": Sampler(
        _MULTI, "DPM++ 2M Karras", {**_ODE, **_KARRAS}, ("DPM++ 2M Automatic",), ("dpmpp_2m", "karras")
    ),
    "dpmpp_2m_exponential": Sampler(
        _MULTI, "DPM++ 2M Exponential", {**_ODE, **_EXPONENTIAL}, comfyui=("dpmpp_2m", "exponential")
    ),
    "dpmpp_2m_beta": Sampler(_MULTI, "DPM++ 2M Beta", {**_ODE, **_BETA}, comfyui=("dpmpp_2m", "beta")),
    "dpmpp_2m_sgm_uniform": Sampler(
        _MULTI, "DPM++ 2M SGM Uniform", {**_ODE, **_TRAILING}, ("DPM++ 2M Trailing",),
        ("dpmpp_2m", "sgm_uniform"),
    ),
    "dpmpp_2m_sde": Sampler(_MULTI, "DPM++ 2M SDE", _SDE, comfyui=("dpmpp_2m_sde", "normal"), noisy=True),
    "dpmpp_2m_sde_karras": Sampler(
        _MULTI, "DPM++ 2M SDE Karras", {**_SDE, **_KARRAS}, comfyui=("dpmpp_2m_sde", "karras"), noisy=True
    ),
    "dpmpp_2m_sde_exponential": Sampler(
        _MULTI, "DPM++ 2M SDE Exponential", {**_SDE, **_EXPONENTIAL}, ("DPM++ 2M SDE Automatic",),
        ("dpmpp_2m_sde", "exponential"), noisy=True,
    ),
    "dpmpp_2m_sde_heun": Sampler(
        _MULTI, "DPM++ 2M SDE Heun", {**_SDE, "solver_type": "heun"}, comfyui=("dpmpp_2m_sde_heun", "normal"),
        noisy=True,
    ),
    "dpmpp_3m_sde": Sampler(_MULTI, "DPM++ 3M SDE", _SDE3, comfyui=("dpmpp_3m_sde", "normal"), noisy=True),
    "dpmpp_3m_sde_karras": Sampler(
        _MULTI, "DPM++ 3M SDE Karras", {**_SDE3, **_KARRAS}, comfyui=("dpmpp_3m_sde", "karras"), noisy=True
    ),
    "dpmpp_3m_sde_exponential": Sampler(
        _MULTI, "DPM++ 3M SDE Exponential", {**_SDE3, **_EXPONENTIAL}, ("DPM++ 3M SDE Automatic",),
        ("dpmpp_3m_sde", "exponential"), noisy=True,
    ),
    "dpmpp_2s": Sampler(_SINGLESTEP, "DPM++ 2S", _SINGLE, comfyui=("dpmpp_2s", "normal")),
    "dpmpp_2s_karras": Sampler(
        _SINGLESTEP, "DPM++ 2S Karras", {**_SINGLE, **_KARRAS}, comfyui=("dpmpp_2s", "karras")
    ),
    "dpmpp_sde": Sampler(_DPM_SDE, "DPM++ SDE", {}, comfyui=("dpmpp_sde", "normal"), noisy=True),
    "dpmpp_sde_karras": Sampler(
        _DPM_SDE, "DPM++ SDE Karras", _KARRAS, ("DPM++ SDE Automatic",), ("dpmpp_sde", "karras"), noisy=True
    ),
    "lms": Sampler(_LMS, "LMS", also=("LMS Automatic",), comfyui=("lms", "normal")),
    "lms_karras": Sampler(_LMS, "LMS Karras", _KARRAS, comfyui=("lms", "karras")),
    "unipc": Sampler(_UNIPC, "UniPC", also=("UniPC Automatic",), comfyui=("uni_pc", "normal")),
    "unipc_karras": Sampler(_UNIPC, "UniPC Karras", _KARRAS, comfyui=("uni_pc", "karras")),
    "deis": Sampler("DEISMultistepScheduler", "DEIS", comfyui=("deis", "normal")),
    "sa_solver": Sampler("SASolverScheduler", "SA-Solver", comfyui=("sa_solver", "normal"), noisy=True),
    "lcm": Sampler("LCMScheduler", "LCM", {}, ("LCM Automatic",), ("lcm", "sgm_uniform"), noisy=True),
    "tcd": Sampler("TCDScheduler", "TCD", comfyui=("tcd", "simple"), noisy=True),
}  # fmt: skip

# What a scheduler takes from the base: how much noise there is when, and what the UNet predicts. The rest
# (Karras' sigmas, solver orders …) is the sampler's, whatever scheduler the base came with.
_SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "rescale_betas_zero_snr", "clip_sample",
    "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
)  # fmt: skip
_PREDICTIONS = ("epsilon", "v_prediction")


def _plain(text: str) -> str:
    """A spelling without case, spaces and marks: "DPM++ 2M Karras" and "dpmpp_2m_karras" are one."""
    text = text.casefold().replace("+", "p")
    return "".join(character for character in text if character.isalnum())


def spellings(key: str) -> tuple[str, ...]:
    """Return everything that `sampler_named` reads as this row, in plain form."""
    row = SAMPLERS[key]
    sampler, schedule = row.comfyui
    comfyui = (f"{sampler} {schedule}", *((sampler,) if schedule == "normal" else ()))
    return tuple(dict.fromkeys(_plain(text) for text in (key, row.label, *row.also, *comfyui)))


def sampler_named(text: str) -> str | None:
    """Return the key of the row that A1111, ComfyUI or diffusers call `text`, or None.

    ComfyUI's two names are joined by a space ("dpmpp_2m karras"); k-diffusion's "k_" may stand before.
    """
    asked = {_plain(text), _plain(text.strip().casefold().removeprefix("k_").removeprefix("sample_"))}
    for key in SAMPLERS:
        if asked & set(spellings(key)):
            return key
    for key, row in SAMPLERS.items():
        if text.strip() == row.scheduler:
            return key
    return None


def make_scheduler(base: Base, sampler: str) -> SchedulerMixin:
    """Return a fresh scheduler for `base`.

    Raises: ConfigError for an unknown sampler, or one that can't draw what the base predicts.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
    import diffusers

    from pipelines.base import quiet

    row = SAMPLERS[sampler]
    config = dict(base.scheduler.config)
    kind = getattr(diffusers, row.scheduler)
    taken = inspect.signature(kind.__init__).parameters
    _check(sampler, config, zero_snr="rescale_betas_zero_snr" in taken)
    kept = {name: config[name] for name in _SCHEDULE if name in config and name in taken}
    # Latents aren't pixels: what DDIM and DDPM clip by default must stay, as diffusers' pipelines see to.
    if "clip_sample" in taken:
        kept.setdefault("clip_sample", False)
    with quiet():
        scheduler: SchedulerMixin = kind(**{**kept, **row.arguments})
    return scheduler


def _check(sampler: str, config: Mapping[str, Any], *, zero_snr: bool) -> None:
    """Raise ConfigError where a sampler can't draw with a base's scheduler config."""
    label, prediction = SAMPLERS[sampler].label, str(config.get("prediction_type", "epsilon"))
    if prediction not in _PREDICTIONS:
        raise ConfigError(
            f"sampler {label!r} can't draw with a base that predicts {prediction!r}; "
            f"expected {' or '.join(_PREDICTIONS)}: choose another base, or give its prediction type"
        )
    if config.get("rescale_betas_zero_snr") and not zero_snr:
        raise ConfigError(
            f"sampler {label!r} can't start from noise alone, as this base (zero terminal SNR) does; "
            "choose ddim, euler, euler_a, dpmpp_2m or unipc"
        )


def set_timesteps(
    scheduler: Any, steps: int, device: torch.device | str | None = None, *, strength: float = 1.0
) -> torch.Tensor:
    """Set how many denoising steps a scheduler takes, 1 to its number of training steps.

    strength: share of them that is taken, from the end; 1 for all. Returns: the timesteps to call the
    UNet at, two per step with second-order samplers; empty where strength · steps is below 1. LCM and TCD
    choose among 50 steps; for more than that they choose among more.
    """
    originals = scheduler.config.get("original_inference_steps")
    if originals is not None and steps > originals:
        trained = int(scheduler.config["num_train_timesteps"])
        enough = next((n for n in range(steps, trained) if trained % n == 0), trained)
        scheduler.register_to_config(original_inference_steps=enough)
    scheduler.set_timesteps(steps, device=device)
    # As in diffusers' StableDiffusionImg2ImgPipeline.get_timesteps.
    taken = min(int(steps * strength), steps)
    begin = (steps - taken) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # else a timestep that comes twice is taken for the second
        scheduler.set_begin_index(begin)
    found: torch.Tensor = scheduler.timesteps[begin:] if taken else scheduler.timesteps[:0]
    return found


def check_eta(sampler: str, eta: float) -> None:
    """Raise ConfigError for an eta above 0 with a sampler that has no use for it."""
    if eta and not SAMPLERS[sampler].eta:
        able = " or ".join(repr(key) for key, row in SAMPLERS.items() if row.eta)
        raise ConfigError(
            f"eta is {eta:g}, which sampler {sampler!r} has no use for; use 0, or choose {able}"
        )


def step_arguments(
    scheduler: Any, sampler: str, latents: torch.Tensor, generators: Sequence[torch.Generator], eta: float = 0
) -> dict[str, Any]:
    """Return what a scheduler's `step` takes so that each picture's noise is its own; after `set_timesteps`.

    sampler: the key that `scheduler` was made by. latents: (B, C, h, w), what is denoised. generators: B,
    one per picture, on the CPU. eta: DDIM's share of noise, 0 to 1; TCD keeps its own (0.3).

    Raises: ConfigError for an eta above 0 with a sampler that has no use for it.
    """
    check_eta(sampler, eta)
    found: dict[str, Any] = {"eta": eta} if SAMPLERS[sampler].eta else {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        found["generator"] = list(generators)
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = _brownian(scheduler, latents, generators)
    return found


def _brownian(scheduler: Any, latents: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
    """Return the noise of DPM++ SDE: one Brownian path per picture, by its seed, drawn on the CPU in fp32.

    The scheduler would make one path for the whole batch, unseeded, on the device.
    Source: k-diffusion's BrownianTreeNoiseSampler, https://github.com/crowsonkb/k-diffusion.
    """
    import torch
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    sigmas = scheduler.sigmas
    low, high = sigmas[sigmas > 0].min().item(), sigmas.max().item()
    seeds = [generator.initial_seed() for generator in generators]
    paths = BrownianTreeNoiseSampler(torch.zeros(latents.shape), low, high, seeds)
    ends = round(low, 6), round(high, 6)  # as torchsde rounds them; it warns of anything beyond

    def noise(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        # In fp64: the fp32 number next to an end may lie beyond it.
        times = [one.cpu().double().clamp(*ends) for one in (sigma, sigma_next)]
        found: torch.Tensor = paths(*times)
        return found.to(latents.device, latents.dtype)

    return noise
