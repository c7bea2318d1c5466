"""Samplers: tables, the solvers they are traced from, and adaptive solution."""
