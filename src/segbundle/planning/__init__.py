"""Plan the training of a dataset: measure its cases, derive a task, and write the task as a YAML file."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
