"""Consistency models: maps whose value is the same along a trajectory, f(y_s, s) = f(y_r, r).

Output distillation of a field in the words of Luo's survey (arXiv 2304.04262, section 2.1), by
neighbouring levels in place of the trajectory's end; with a teacher (distillation) or data alone
(training).
"""
