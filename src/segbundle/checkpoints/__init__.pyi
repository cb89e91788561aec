from .loading import ensemble_members, load_weights, warn_about_preprocessing, warn_about_training_cases
from .pretrained import load_pretrained_weights

__all__ = [
    "ensemble_members",
    "load_pretrained_weights",
    "load_weights",
    "warn_about_preprocessing",
    "warn_about_training_cases",
]
