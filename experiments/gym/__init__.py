"""The gym: every method of distillation on problems whose answers are known exactly."""
