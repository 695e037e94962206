"""Read and write checkpoints of other implementations, by mapping parameter names both ways.

Imports: util, params, model, data, training, evaluation.
"""
