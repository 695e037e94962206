"""Readers that turn data sets in their official layouts into shards."""
