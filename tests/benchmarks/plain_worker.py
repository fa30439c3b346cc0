"""A worker whose Triton interpreter is as it comes; started by ``tests.benchmarks.campaign_speed``."""

import sys

from harness import worker

worker.quicken = lambda: None

if __name__ == "__main__":
    worker.main(sys.argv[1:])
