"""Change retrycli in small ways, one at a time, and list the changes that no test notices.

``python -m tests.mutants --record`` runs the suite once (pytest gets the other arguments) and records which tests reach
each line. ``python -m tests.mutants --seed 1 --count 60`` draws 60 mutants, and for each of them runs the tests that
reach its line, the fastest first. A mutant is killed if a test fails that passes without the change. A test that
exceeds a time limit does not kill.
"""
