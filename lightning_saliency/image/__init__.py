"""Pure functions on images, tensors of shape (N, C, H, W)."""
