"""From a trained task to predictions, decoded words and metrics.

Imports: util, params, model, data, training.
"""
