"""Speed, measured: `python -m tests.benchmarks` prints figures and ratios of one run. Nothing here is a test."""
