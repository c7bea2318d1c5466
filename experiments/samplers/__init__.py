"""Every sampler on problems whose answer is known."""
