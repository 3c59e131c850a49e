"""Image backbones with GroupNorm: `[B, C, H, W]` -> `[B, D]`."""
