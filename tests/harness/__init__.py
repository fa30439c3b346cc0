"""Meta-tests: what draws, runs and judges is itself drawn from, run and judged."""
