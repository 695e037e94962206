"""From the metrics of runs to tables that set them beside the reported ones.

Imports: util, params, data, evaluation, experiment, jobs.
"""
