"""Runs as jobs on this machine or on Slurm: start, follow and estimate the cost of a run.

Imports: util, params, model, data, training, interop, experiment.
"""
