"""Figures of the report (arXiv:2408.07009 v3), to compare with.

Models are in the report's order of the overall preference.
"""

from collections.abc import Mapping
from types import MappingProxyType

MODELS = ("Imagen 3", "SD3", "DALL-E 3", "MJ v6", "Imagen 2", "SDXL")

ELO: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "GenAI-Bench overall": (1098, 1047, 1028, 1027, 941, 860),
        "DrawBench overall": (1068, 1053, 1027, 999, 929, 923),
        "GenAI-Bench alignment": (1083, 1047, 1028, 1019, 950, 873),
        "DOCCI-Test-Pivots detailed alignment": (1193, 1079, 1051, 971, 913, 793),
    }
)
"""Scores in falling order; only the first set's are tied to `MODELS` in this order."""

WINS_OF_IMAGEN_3: Mapping[str, float] = MappingProxyType(
    {"SD3": 57.8, "DALL-E 3": 60.0, "MJ v6": 58.0, "Imagen 2": 69.9, "SDXL": 77.7}
)
"""Per cent of overall preference on GenAI-Bench."""

COCO: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "DALL-E 3": (20.1, 284.4, 0.894),
        "SDXL": (13.2, 185.6, 0.898),
        "Imagen 3": (17.2, 213.9, 0.854),
    }
)
"""FID, FD-DINO and CMMD on 30,000 captions."""

GECKONUM_IMAGEN_3, GECKONUM_SDXL = 58.6, 20.5
"""Per cent of exact counts."""

AGREEMENT: Mapping[str, float] = MappingProxyType(
    {"CLIP": 43.3, "Gecko": 73.3, "VQAScore": 80.0, "Gecko and VQAScore agree": 94.4}
)
"""Per cent of 30 pairs of models ordered as people order them."""

HOMOGENEOUS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"gender": (15.48, 50.00), "tone": (19.66, 25.89), "age": (25.94, 36.16)}
)
"""Per cent of prompts with homogeneous outputs, Imagen 3 and Imagen 2."""

DISTRIBUTIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = (
    MappingProxyType(
        {
            "gender": ((62.5, 37.5), (67.3, 32.7)),
            "tone": ((63.6, 18.1, 16.7, 1.6), (69.2, 21.9, 8.1, 0.8)),
            "age": ((58.2, 41.8), (55.6, 44.4)),
        }
    )
)
"""Perceived attributes in per cent, Imagen 3 and Imagen 2."""
