"""data2vec, reproduced: one model, one task, one trainer for vision, speech and text."""

__version__ = "0.1.0"
