"""Hyperparameter and ablation studies for deep semantic localization in dynamic wireless networks."""

__version__ = "0.1.0"
