"""Usual classifiers compared on the same folds of real data."""
