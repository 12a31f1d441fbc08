"""A graph as a list of calls over planned memory."""
