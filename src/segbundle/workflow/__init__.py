"""First and last steps of the bundle's workflows: checks, output folders and provenance."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
