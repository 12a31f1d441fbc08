"""Fuzzers: random cases for everything that takes input from outside.

``python tests/fuzz --minutes 5`` runs all targets, ``python tests/fuzz --list`` names them.
A case is a function of its target's name and a seed.  It ends in a result that was checked, or in
the one clean error that the interface promises.  Everything else is a finding: another exception,
a wrong result, a crash, a hang, too much time or memory.
"""
