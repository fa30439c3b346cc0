"""What the testbench costs, measured."""
