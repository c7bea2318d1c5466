"""Presets and experiments: each states its command, hardware, time and expected number."""
