"""Parts of methods of distillation: the student, its losses' frame, levels, teachers'
steps, generators, critics, stages.
"""
