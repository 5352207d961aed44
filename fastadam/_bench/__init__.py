"""Benchmarks: `python -m fastadam bench` and the scripts in bench/ share this."""
