"""Conditioning: denoiser in, denoiser out."""
