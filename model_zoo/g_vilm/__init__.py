"""G-ViLM: video and language, grounded in groups of patches and in stretches of time.

Xiong, Zhao, Gong, Yang, Schroff, Liu, Hsieh and Yuan (2023), Spatiotemporally
Discriminative Video-Language Pre-Training with Text Grounding, arXiv:2303.16341.
"""
