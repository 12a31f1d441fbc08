"""Faults put into the real kernels on purpose, to prove that the checker catches them.

``faults.toml`` lists small changes of the text of files of csrc/cuda, and the call that must then
fail.
"""
