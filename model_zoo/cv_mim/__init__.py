"""CV-MIM: pose codes that do not change with the camera, from 2D skeletons.

Zhao, Wang, Zhao, Yuan, Sun, Schroff, Adam, Peng, Metaxas and Liu (2021), Learning
View-Disentangled Human Pose Representation by Contrastive Cross-View Mutual Information
Maximization, CVPR, arXiv:2012.01405.
"""
