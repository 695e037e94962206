"""Names of other implementations, and how their weights become ours and back.

Imports: util, params, model, data, training, evaluation.
"""
