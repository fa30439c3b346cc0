"""What kernels become on a GPU that is not there: launches compile instead of running, and the code is read."""
