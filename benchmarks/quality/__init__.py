"""The quality table: every network, published checkpoint and filter on the public test sets.

`run` is the command. `methods` and `filters` are what is measured, `test_sets` on which images,
`measure` how. `table` and `plot` show the figures. `published.toml` has figures of other papers.
"""
