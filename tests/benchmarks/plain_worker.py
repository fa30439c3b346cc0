"""A worker whose Triton interpreter is as it comes; started by ``tests.benchmarks.campaign_speed``."""

import sys

from harness import worker

setattr(worker, "quicken", lambda: None)  # noqa: B010 - it is another module's name

if __name__ == "__main__":
    worker.main(sys.argv[1:])
