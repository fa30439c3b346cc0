"""State dicts exchanged with transformers, whose layers are made to compute in float64."""
