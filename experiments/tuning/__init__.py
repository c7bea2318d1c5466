"""Tuned samplers against baselines, at a few evaluations."""
