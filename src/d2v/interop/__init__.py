"""Names of other implementations, and how their weights become ours and back."""
