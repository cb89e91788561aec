from .findings import Finding
from .trust import inspect_path, refuse_untrusted

__all__ = ["Finding", "inspect_path", "refuse_untrusted"]
