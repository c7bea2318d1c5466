"""Methods of guidance by measurements against exact posteriors of Gaussian mixtures."""
