"""What ``benchmarks/ops.py`` measures: one module for each operator."""
