"""The command line: one file per group of commands. Heavy imports wait until they are needed.

Imports: util, params, data, evaluation, interop, experiment, jobs, results.
"""
