"""Data sets in their official layouts become shards."""
