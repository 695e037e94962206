"""The command line: one file per group of commands. Heavy imports are deferred until needed.

Imports: util, params, data, evaluation, interop, experiment, jobs, results.
"""
