"""The gate judged: regressions that it must trip on, and trees that did not change, on which it must not."""
