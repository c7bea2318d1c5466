"""Schedules by search: a cost of every jump, or a bound in closed form, and the best grid."""
