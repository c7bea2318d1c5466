"""Adversarial methods: a discriminator distinguishes the student's samples from data.

Stochastic generators in the words of Luo's survey (arXiv 2304.04262, section 3.2), with a learned
divergence in place of a score difference; and discriminator guidance, which corrects a model's
score by such a discriminator (section 4.1).
"""
