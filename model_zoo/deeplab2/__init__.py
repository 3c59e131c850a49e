"""Panoptic-DeepLab, DeepLabv3 and v3+: segmentation with an encoder learnt privately.

Cheng et al. (2020), Panoptic-DeepLab, arXiv:1911.10194; Weber et al. (2021), DeepLab2,
arXiv:2106.09748. Read `card.py` for the sizes, `task.py` for what a round trains.
"""
