"""Adapters for other packages: what they take from this one, and the other way round.

deepinv     networks as deepinv's denoisers, deepinv's physics as operators of `restore`
"""
