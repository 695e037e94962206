"""Runs as jobs, on this machine or on Slurm: started, followed, priced.

Imports: util, params, model, data, interop, experiment.
"""
