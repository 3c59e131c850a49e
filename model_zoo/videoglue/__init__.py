"""VideoGLUE: one protocol that judges every video encoder of the zoo.

Yuan et al. (2024), VideoGLUE: Video General Understanding Evaluation of Foundation
Models, TMLR, arXiv:2307.03166.
"""
