"""Solvers that choose their steps while they run: by an error estimate per sample, or by
diffrax.
"""
