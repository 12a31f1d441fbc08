"""Adapters to other systems, each in a module that needs its package: `ray`."""
