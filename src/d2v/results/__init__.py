"""Tables and a results page that compare the metrics of runs with the reported values.

Imports: util, params, data, evaluation, experiment, jobs.
"""
