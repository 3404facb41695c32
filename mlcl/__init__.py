"""Multi-label contrastive learning: image classifiers for pictures with many labels."""

__version__ = "0.1.0"
