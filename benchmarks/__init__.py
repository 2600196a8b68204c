"""Scripts that print numbers, each run by hand: `python -m benchmarks.NAME`. What must hold is in `tests`."""
