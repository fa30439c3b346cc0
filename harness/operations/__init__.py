"""One file per operation: its case, the strategy that draws cases, the inputs that follow from a case."""
