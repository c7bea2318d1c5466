"""Distilling classifiers, measured."""
