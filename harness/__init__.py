"""Draw cases, run candidates, judge them; importing this package imports nothing heavy."""
