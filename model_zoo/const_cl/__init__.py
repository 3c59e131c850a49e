"""ConST-CL: clips and their regions, told apart in space and time.

Yuan, Qian, Cui, Gong, Schroff, Yang, Adam and Liu (2022), Contextualized
Spatio-Temporal Contrastive Learning with Self-Supervision, CVPR, arXiv:2112.05181.
"""
