"""VideoPrism: a video encoder taught by captions, then by its own earlier self.

Zhao et al. (2024), VideoPrism: A Foundational Visual Encoder for Video Understanding,
arXiv:2402.13217.
"""
