"""Explain the samples once, and let no failure through to the training."""
