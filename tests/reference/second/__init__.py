"""Second formulations of the operations, written independently of the references."""
