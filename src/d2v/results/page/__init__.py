"""The results page: index.html with tables, charts, examples, costs and each run's provenance."""
