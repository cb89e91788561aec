"""Find what could run code in a configuration or bundle from someone else, before anything in it is imported."""

from segbundle.audit.findings import Finding
from segbundle.audit.trust import inspect_path, refuse_untrusted

__all__ = ["Finding", "inspect_path", "refuse_untrusted"]
