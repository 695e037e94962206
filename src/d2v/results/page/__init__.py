"""The results page: index.html with tables, charts, examples, cost and provenance of every run."""
