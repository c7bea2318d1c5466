"""Students that are smaller than their teacher: knowledge distillation as classifiers know it.

The loss of a denoiser in place of a classifier's: the divergence KL of two Gaussians of one
variance is their squared distance, so that logits become denoised outputs D.

    block_knowledge   output and feature regression (BK-SDM)
    reused_decoder    a small encoder before the teacher's own decoder (SimKD)
    calibrated        every stage from the teacher's stages that say the same (SemCKD)
    peers             networks that learn from each other, without a teacher (OKDDip)

All of them sample in as many steps as their teacher; the student then goes on to methods of fewer
steps like any other denoiser.
"""
