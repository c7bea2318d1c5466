"""Flow maps: networks of two levels that jump from any noise level to any lower one.

Output distillation of a field in the words of Luo's survey (arXiv 2304.04262, section 2.1), its
ends anywhere on the trajectory: trajectory consistency, shortcut models, mean flows, flow maps by
their Lagrangian, Eulerian and semigroup identities, inductive moment matching.
"""
