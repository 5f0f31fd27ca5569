"""What a training step costs, counted without a device: operator calls, FLOPs, bytes alive.

`ledger` follows what runs; `twins` lets a network run on tensors without memory, repeated blocks once;
`steps` counts whole training steps; `demand` says what a run will need of its device.
"""
