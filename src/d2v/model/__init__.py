"""The method: student, teacher, targets, regression, the one Transformer, masks and heads.

Imports: util, params.
"""
