"""The quality table: every network, published checkpoint and filter on the public test sets.

`denoise-ext evaluate --table` puts the pieces together: `methods` and `filters` are what is
measured, `test_sets` on what, `measure` how, `table` and `picture` show it, `published.toml` has
the figures of others.
"""
