"""Show records and decide on them; reads records only, and runs without torch."""
