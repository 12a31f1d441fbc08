"""Benchmarks on the CPU; `benchmarks/cpu.py` runs them."""
