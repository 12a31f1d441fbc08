"""A call of a module recorded as a graph of operators."""
