from .layers import with_channels_last_norms
from .rewriting import optimised

__all__ = ["optimised", "with_channels_last_norms"]
