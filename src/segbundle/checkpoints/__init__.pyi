from .loading import ensemble_members, load_weights, warn_about_preprocessing, warn_about_training_cases

__all__ = ["ensemble_members", "load_weights", "warn_about_preprocessing", "warn_about_training_cases"]
