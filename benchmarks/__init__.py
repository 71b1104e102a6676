"""Speed and memory of ensync beside other clients: ``python -m benchmarks``."""
