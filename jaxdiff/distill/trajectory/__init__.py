"""Distillation along the teacher's trajectories: pairs, grids of levels, paths.

In the words of Luo's survey (arXiv 2304.04262, section 2) these distil a diffusion field into a
field: *output distillation* (knowledge, trajectory_operator, progressive, guided,
classifier_features, tract, simple_fast, bootstrap) requires the teacher's outputs at the end of a
jump, *path distillation* (rectified_flow, piecewise_flow) for straighter paths between the same
ends.
"""
