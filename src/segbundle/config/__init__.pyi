from .current_workflow import in_bundle, locate_bundle

__all__ = ["in_bundle", "locate_bundle"]
