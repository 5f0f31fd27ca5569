"""The base's frozen parts in one piece: less kept for the backward pass, and on a CPU faster kernels.

What learns, and what isn't as diffusers made it, is left alone.
"""

from trainers.frozen.putting import in_one_piece

__all__ = ["in_one_piece"]
