"""A model learning: pictures and a base in, an adapter and a log of events out.

`trainers.config` says what to learn, `trainers.loop.train` learns it. Nothing is imported here, so
that a config can be read without loading torch.
"""
