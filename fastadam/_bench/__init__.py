"""What benchmarks share: timing, the rivals, `python -m fastadam bench`.

This package is installed with fastadam, so that users can measure their own machine. The
scripts in the checkout's bench/ use it and are not installed.
"""
