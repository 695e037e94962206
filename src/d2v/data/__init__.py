"""Prepared data: shards, readers of the official layouts, and the data sets of the trainer."""
