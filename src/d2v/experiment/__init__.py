"""The runs of a parameter file: their list, what defines each of them, and their execution.

Imports: util, params, model, data, training, evaluation, interop.
"""
