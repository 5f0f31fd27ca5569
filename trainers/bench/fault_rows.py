"""The runs that are made to have a fault: rows "fault concept pictures making steps field=value …".

One a line; with "+" in front it goes on. See `trainers.bench.fault_runs`.
"""

_DEV = """
not_finite bramu 5 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
not_finite thermal 6 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
rate_too_high kelvo 5 as-they-are 60 learning_rate=2e-2
rate_too_low pomdi 4 as-they-are 60 learning_rate=4e-5
under_trained wexna 5 as-they-are 8
text_encoder_dead bramu 5 as-they-are 24 text_learning_rate=1e-6
text_encoder_dead wexna 5 as-they-are 24 block_rates=@text_encoder:0
text_encoder_dominating pomdi 5 as-they-are 24 learning_rate=1e-4 text_learning_rate=1e-2
text_encoder_dominating thermal 6 as-they-are 24 learning_rate=2e-4 text_learning_rate=1e-2
dataset_too_uniform tuvli 5 one-layout 12
dataset_too_uniform papercut 6 one-layout 12
over_trained tuvli 3 as-they-are 200 rank=32 prior_weight=0 learning_rate=4e-3
trigger_not_learned bramu 5 nameless 40
trigger_not_learned kelvo 6 mostly-nameless 40
style_leaks chalkboard 6 nameless 100 learning_rate=4e-3 samples=2
style_leaks tuvli 4 nameless 100 learning_rate=8e-3 prior_weight=0 samples=2
memorised pomdi 1 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
memorised wexna 2 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
"""

_TEST = """
not_finite glimo 5 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
not_finite neon 6 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
rate_too_high hubbet 5 as-they-are 60 learning_rate=2e-2
rate_too_low dobrix 4 as-they-are 60 learning_rate=4e-5
under_trained selpu 5 as-they-are 8
text_encoder_dead glimo 5 as-they-are 24 text_learning_rate=1e-6
text_encoder_dead minqua 5 as-they-are 24 block_rates=@text_encoder:0
text_encoder_dominating dobrix 5 as-they-are 24 learning_rate=1e-4 text_learning_rate=1e-2
text_encoder_dominating neon 6 as-they-are 24 learning_rate=2e-4 text_learning_rate=1e-2
dataset_too_uniform vantok 5 one-layout 12
dataset_too_uniform blinds 6 one-layout 12
over_trained vantok 3 as-they-are 200 rank=32 prior_weight=0 learning_rate=4e-3
trigger_not_learned glimo 5 nameless 40
trigger_not_learned rafsu 6 mostly-nameless 40
style_leaks halftone 6 nameless 100 learning_rate=4e-3 samples=2
style_leaks vantok 4 nameless 100 learning_rate=8e-3 prior_weight=0 samples=2
memorised minqua 1 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
memorised selpu 2 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
"""

_PROOF = """
not_finite orpik 5 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
not_finite gilded 6 as-they-are 20 learning_rate=1 max_grad_norm=1000 alpha=1024
rate_too_high yavlin 5 as-they-are 60 learning_rate=2e-2
rate_too_low fizzur 4 as-they-are 60 learning_rate=4e-5
under_trained quanno 5 as-they-are 8
text_encoder_dead orpik 5 as-they-are 24 text_learning_rate=1e-6
text_encoder_dead lodmip 5 as-they-are 24 block_rates=@text_encoder:0
text_encoder_dominating fizzur 5 as-they-are 24 learning_rate=1e-4 text_learning_rate=1e-2
text_encoder_dominating gilded 6 as-they-are 24 learning_rate=2e-4 text_learning_rate=1e-2
dataset_too_uniform crostu 5 one-layout 12
dataset_too_uniform ripples 6 one-layout 12
over_trained beshti 3 as-they-are 200 rank=32 prior_weight=0 learning_rate=4e-3
over_trained hatched 3 as-they-are 200 rank=32 prior_weight=0 learning_rate=4e-3
trigger_not_learned orpik 5 nameless 40
trigger_not_learned norgel 6 mostly-nameless 40
style_leaks hatched 6 nameless 100 learning_rate=4e-3 samples=2
style_leaks crostu 4 nameless 100 learning_rate=8e-3 prior_weight=0 samples=2
memorised lodmip 1 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
memorised quanno 2 as-they-are 300 rank=64 unet_targets=attention+ff prior_weight=0
  + learning_rate=3e-3 samples=2 take=last captions=prompt
"""

ROWS = {"dev": _DEV, "test": _TEST, "proof": _PROOF}
"""By pool of concepts."""
