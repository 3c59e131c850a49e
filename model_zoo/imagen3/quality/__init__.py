"""The quality protocol of the Imagen 3 report (2024, arXiv:2408.07009), section 3."""
