"""The responsibility protocol of the Imagen 3 report (arXiv:2408.07009), section 4."""
