"""What holds for an adapter in the base whatever its method."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from pipelines.families import UNET_TARGETS
from pipelines.methods import TUNINGS
from tests.trainers.tuning.trying import WORD, config_of, disturb, seen, train
from trainers.settings import AdapterConfig, OptimizerConfig
from trainers.tuning import inject, injected


@pytest.mark.parametrize("unet", ["none", *UNET_TARGETS])
@pytest.mark.parametrize("text", ["none", "attention"])
def test_components_are_tuned_apart(tiny_base: Base, unet: str, text: str) -> None:
    if unet == text == "none":
        return
    before = seen(tiny_base)
    config = AdapterConfig(unet_targets=unet, text_targets=text, rank=3, alpha=6)
    with injected(tiny_base, config) as injection:
        assert torch.equal(seen(tiny_base), before)
        assert injection.text_is_trained == (text != "none")
        assert any(name.startswith("unet.") for name in injection.parameters) == (unet != "none")


def test_the_adapter_is_ejected_after_an_error(tiny_base: Base) -> None:
    names = list(tiny_base.modules())
    with pytest.raises(RuntimeError, match="on the way"), injected(tiny_base, AdapterConfig()):
        raise RuntimeError("on the way")
    assert list(tiny_base.modules()) == names


def test_nothing_stays_of_an_injection_that_fails(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ConfigError("on the way")

    names, before = list(tiny_base.modules()), seen(tiny_base)
    monkeypatch.setattr("trainers.tuning.injection.check_quantised", broken)
    with pytest.raises(ConfigError, match="on the way"):
        inject(tiny_base, config_of("lora", initialisation="pissa", unet_targets="attention"))
    assert list(tiny_base.modules()) == names and torch.equal(seen(tiny_base), before)
    assert not any("peft_config" in vars(tiny_base.component(c)) for c in tiny_base.family.components)


def test_nothing_is_compiled_for_a_method(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is killed while torch compiles would leave a lock for which all others wait."""
    from peft.tuners.boft import layer
    from torch.utils import cpp_extension

    asked: list[object] = []
    monkeypatch.setattr(layer, "_FBD_CUDA", None)
    monkeypatch.setattr(cpp_extension, "load", lambda *given, **named: asked.append(named))
    for method in TUNINGS:
        with injected(tiny_base, config_of(method), word=WORD):
            pass
    assert asked == []


def test_the_seed_decides_the_start_and_leaves_the_global_one_alone(tiny_base: Base) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    starts = []
    for seed in (1, 1, 2):
        with injected(tiny_base, config_of("lora", dropout=0.1), seed) as injection:
            with injection.learning():
                torch.randn(3)
            starts.append(injection.state())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert any(not torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_loading_refuses_other_names_and_shapes(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig(rank=2)) as injection:
        values = injection.state()
        first = next(iter(values))
        with pytest.raises(StudioError, match="another shape"):
            injection.load({**values, first: torch.zeros(1, 1)})
        del values[first]
        with pytest.raises(StudioError, match="other adapter values"):
            injection.load(values)


def test_targets_that_the_base_lacks_are_refused(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UNET_TARGETS, "attention", ("to_nowhere",))
    with pytest.raises(ConfigError, match="no layers for LoRA in its unet"):
        inject(tiny_base, AdapterConfig())


def test_only_the_named_layers_are_tuned(tiny_base: Base) -> None:
    """PEFT reads a list of names as endings: `conv_in` alone would do for every path that ends so."""
    wanted = {
        name
        for name in tiny_base.modules()
        if name.startswith("unet.") and any(name.endswith(f".{end}") for end in UNET_TARGETS["all"])
    }
    config = config_of("lora", unet_targets="all", text_targets="none", block_ranks=("conv_in=3",))
    with injected(tiny_base, config) as injection:
        assert set(injection.tuned) == wanted
        ranks = {name: one.parts["down"].shape[0] for name, one in injection.tuned.items()}
    assert [name for name, rank in ranks.items() if rank == 3] == ["unet.conv_in"]


def test_layers_left_out_are_said(tiny_base: Base) -> None:
    with injected(tiny_base, config_of("vera", unet_targets="attention+ff")) as injection:
        assert injection.notes == ("VeRA can't sit on 8 convolutions of the targets; they stay as they are",)
    with injected(tiny_base, config_of("lora", unet_targets="attention+ff")) as injection:
        assert injection.notes == ()


@pytest.mark.parametrize(
    ("method", "rank", "why"),
    [
        ("oft", 6, "a block of 6 doesn't divide its 16 inputs; 4 would"),
        ("boft", 5, "a block of 5 doesn't divide its 16 inputs; 4 would"),
        ("c3a", 12, "a block of 12 doesn't divide its 16 inputs; 8 would"),
        ("road", 6, "a group of 6 doesn't divide its 16 outputs; 4 would"),
        ("fourierft", 4, "rank 4 is 512 numbers, it has 256 weights"),
        ("miss", 33, "rank 33 is more than its 16 inputs"),
    ],
)
def test_sizes_that_a_layer_does_not_take_are_refused(
    tiny_base: Base, method: str, rank: int, why: str
) -> None:
    before = seen(tiny_base)
    with pytest.raises(ConfigError) as told:
        inject(tiny_base, config_of(method, rank=rank))
    assert str(told.value).startswith("adapter.rank: ") and why in str(told.value)
    assert torch.equal(seen(tiny_base), before)


def test_groups_hold_each_part_at_its_rate(tiny_base: Base) -> None:
    with injected(tiny_base, config_of("lora", block_rates=("mid_block=0.5", "up_blocks=2"))) as injection:
        groups = injection.groups(
            OptimizerConfig(learning_rate=1e-3, text_learning_rate=1e-4, weight_decay=0.1)
        )
        assert [(group["name"], group["lr"]) for group in groups] == [
            ("unet", 1e-3),
            ("unet ×2", 2e-3),
            ("unet ×0.5", 5e-4),
            ("text", 1e-4),
        ]
        assert sum(len(group["params"]) for group in groups) == len(injection.parameters)
        assert all(group["weight_decay"] == 0.1 for group in groups)
        own = injection.groups(OptimizerConfig(learning_rate=None), 20.0)
        assert (
            own[0]["lr"] == pytest.approx(20 * TUNINGS["lora"].learning_rate) and own[3]["lr"] == own[0]["lr"]
        )
        lion = injection.groups(OptimizerConfig(learning_rate=None, optimizer="lion"), 20.0)
        assert lion[0]["lr"] == pytest.approx(0.2 * own[0]["lr"])
    with injected(tiny_base, config_of("dora", text_targets="none")) as injection:
        groups = injection.groups(OptimizerConfig(weight_decay=0.1))
        assert [(group["name"], group["weight_decay"]) for group in groups] == [
            ("unet", 0.1),
            ("unet, no decay", 0.0),
        ]
    with injected(tiny_base, config_of("pivotal"), word=WORD) as injection:
        words = injection.groups(OptimizerConfig())[-1]
        assert (words["name"], words["lr"], words["weight_decay"]) == ("words", 5e-3, 0.0)
        assert [id(p) for p in words["params"]] == [id(injection.parameters[f"tokens.text_encoder.{WORD}"])]


def test_a_text_encoder_has_its_own_size_and_blocks_have_theirs(tiny_base: Base) -> None:
    config = config_of(
        "loha",
        rank=2,
        alpha=4.0,
        text_rank=3,
        text_alpha=1.5,
        block_ranks=("down_blocks=4", "down_blocks.0=5"),
        block_alphas=("mid_block=8",),
    )
    before = seen(tiny_base)
    with injected(tiny_base, config) as injection:
        disturb(injection.parameters.values())
        trained = seen(tiny_base)
        factors = injection.collect("a").factors
    sizes = {
        name.split(".attn")[0].split(".transformer")[0]: (f.rank, f.alpha) for name, f in factors.items()
    }
    assert sizes["unet.down_blocks.0.attentions.0"] == (5, 4.0)
    assert sizes["unet.mid_block.attentions.0"] == (2, 8.0)
    assert sizes["unet.up_blocks.1.attentions.0"] == (2, 4.0)
    assert {(f.rank, f.alpha) for n, f in factors.items() if n.startswith("text_encoder.")} == {(3, 1.5)}
    assert not torch.equal(trained, before)


def test_a_block_that_is_not_tuned_is_refused(tiny_base: Base) -> None:
    with pytest.raises(
        ConfigError, match=r"adapter\.block_rates: no tuned layer is in a block 'down_blocks\.7'"
    ):
        inject(tiny_base, config_of("lora", block_rates=("down_blocks.7=2",)))


def test_dropout_drops_only_while_learning_by_numbers_of_its_own(tiny_base: Base) -> None:
    with injected(tiny_base, config_of("lora", dropout=0.5), 3) as injection:
        disturb(injection.parameters.values())
        calm = seen(tiny_base)
        assert torch.equal(seen(tiny_base), calm)
        state = torch.get_rng_state()
        with injection.learning():
            first = seen(tiny_base)
            torch.manual_seed(1)  # another's draws meanwhile
        assert torch.equal(torch.get_rng_state(), state)
        with injection.learning():  # a step's second batch
            second = seen(tiny_base)
        with injection.learning(1):
            later = seen(tiny_base)
        with injection.learning(0, rank=1):
            beside = seen(tiny_base)
        found = [calm, first, second, later, beside]
        assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
        with injection.learning(1):  # as after a resume
            assert torch.equal(seen(tiny_base), later)
        assert torch.equal(seen(tiny_base), calm)
        injection.after_step(1, 2)
        with pytest.raises(AssertionError, match="nothing was dropped out"):
            injection.after_step(2, 2)


@pytest.mark.parametrize(
    "method", sorted(row.id for row in TUNINGS.values() if row.uses & {"dropout", "module_dropout"})
)
def test_every_dropout_does_something(tiny_base: Base, method: str) -> None:
    for name in sorted(TUNINGS[method].uses & {"dropout", "module_dropout"}):
        config = config_of(method, unet_targets="attention", text_targets="none", **{name: 0.9})
        with injected(tiny_base, config, 3, word=WORD) as injection:
            disturb(injection.parameters.values())
            calm = seen(tiny_base)
            with injection.learning():
                assert not torch.equal(seen(tiny_base), calm), name
            assert torch.equal(seen(tiny_base), calm)


def test_trained_numbers_are_fp32_over_a_base_of_bf16(tiny_base: Base) -> None:
    for method in ("lora", "dora", "ia3", "oft", "ln_tuning", "vera", "adalora"):
        base = tiny_base
        before = seen(base)
        parts = [base.component(c) for c in base.family.components]
        kept = [{name: p.data.clone() for name, p in part.named_parameters()} for part in parts]
        for part in parts:
            part.to(torch.bfloat16)
        try:
            with injected(base, config_of(method), 1) as injection, torch.autocast("cpu", enabled=False):
                train_in_bf16(injection)
                assert all(p.dtype == torch.float32 for p in injection.parameters.values())
        finally:
            for part, values in zip(parts, kept, strict=True):
                part.to(torch.float32)
                for name, parameter in part.named_parameters():
                    parameter.data.copy_(values[name])
        assert torch.equal(seen(base), before)


def train_in_bf16(injection: object) -> None:
    """One step in the base's own precision."""
    from trainers.tuning import Injection

    assert isinstance(injection, Injection)
    base = injection.base
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    answer = base.unet(latents, torch.tensor([10]), base.condition(["a fox"]).hidden.bfloat16()).sample
    answer.float().square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in injection.parameters.values())


def test_what_is_trained_is_described(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig(rank=1, text_targets="none")) as injection:
        train(injection, 1)
        count = sum(p.numel() for p in injection.parameters.values())
        assert injection.describe() == f"LoRA on {len(injection.tuned)} layers, {count} numbers"
