"""Score matching of generators: a student's samples are moved by the difference of two scores.

In the words of Luo's survey (arXiv 2304.04262, section 3) these distil a diffusion field into a
generator: a *deterministic* one, the parameters of a scene or an image (score_distillation), or a
*stochastic* one, whose samples follow a distribution (all others). The student's own score, the
fake score, is learned beside it.
"""
