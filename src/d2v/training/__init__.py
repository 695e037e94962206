"""The training loop and what it needs: tasks, optimiser, batches, checkpoints, log, health.

Imports: util, params, model, data.
"""
