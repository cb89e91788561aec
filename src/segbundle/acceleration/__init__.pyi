from .gate import is_accelerated
from .layers import with_channels_last_norms
from .rewriting import optimized

__all__ = ["is_accelerated", "optimized", "with_channels_last_norms"]
