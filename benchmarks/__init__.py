"""What the worker costs, measured beside what one would use instead, in the same run. `python -m benchmarks`."""
