from .current_workflow import in_bundle, locate_bundle
from .settings import fixed_settings, select_settings

__all__ = ["fixed_settings", "in_bundle", "locate_bundle", "select_settings"]
