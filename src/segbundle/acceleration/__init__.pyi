from .layers import with_channels_last_norms
from .rewriting import optimized

__all__ = ["optimized", "with_channels_last_norms"]
