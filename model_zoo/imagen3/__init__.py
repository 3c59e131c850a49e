"""A latent diffusion text-to-image model, and how it is judged (arXiv:2408.07009)."""
