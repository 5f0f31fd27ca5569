"""What is computed once and kept on disk for later runs: latents of pictures, embeddings of captions."""

from trainers.caching.encoding import encode_frames
from trainers.caching.latents import Encoded, LatentCache
from trainers.caching.store import Store

__all__ = ["Encoded", "LatentCache", "Store", "encode_frames"]
