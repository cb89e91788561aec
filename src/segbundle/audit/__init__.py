"""Say what in somebody else's configuration or bundle could run code, before anything of it is imported."""

from segbundle.audit.findings import Finding
from segbundle.audit.trust import inspect_path, refuse_untrusted

__all__ = ["Finding", "inspect_path", "refuse_untrusted"]
