"""Video-language distillation: captions written by a model teach a dual encoder.

Zhao, Zhao, Zhou, Wu, Chu, Miao, Schroff, Adam, Liu, Gong, Kraehenbuehl and Yuan (2024),
Distilling Vision-Language Models on Millions of Videos, arXiv:2401.06129.
"""
