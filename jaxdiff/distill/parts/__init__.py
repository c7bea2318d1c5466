"""What methods of distillation are made of: the student, its losses' frame, levels, teachers'
steps, generators, critics, stages.
"""
