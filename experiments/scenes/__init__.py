"""Score distillation shown: scenes that a diffusion model draws, by SDS and by VSD."""
