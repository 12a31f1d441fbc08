"""Places in a graph that one of our operators can serve, checked against the original."""
