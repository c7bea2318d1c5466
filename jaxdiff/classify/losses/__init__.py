"""Losses of knowledge distillation: functions of a student's and a teacher's logits or features.

Maps are (batch, height, width, channels), features (batch, k), logits (batch, classes); every loss
is a scalar, the teacher's comes second, and nothing in here has parameters.
"""
