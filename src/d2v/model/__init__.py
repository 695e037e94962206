"""The method: student, teacher, targets and prediction, one Transformer, masks and heads.

Imports: util, params.
"""
