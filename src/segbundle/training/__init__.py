"""Training of a network: cached cases, trainer, handlers, and checkpoints for resuming."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
