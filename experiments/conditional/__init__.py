"""Conditions in the network: what each kind does to samples, measured."""
