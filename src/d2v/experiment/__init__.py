"""The runs of a parameter file: which there are, what defines each, how one is carried out.

Imports: util, params, model, data, training, evaluation, interop.
"""
