"""The roof of the house: one file per command. Only this package may use ``reports``, and nothing else uses it."""
