"""Tuned samplers against hand-made ones, at a few evaluations."""
