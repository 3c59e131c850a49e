"""The label space of panoptic maps: int32, `category * divisor + instance`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

DIVISOR = 256
"""Of the maps in memory, as COCO's; category 0 is void."""


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Names of the categories 1, 2, ...; 0 is void.

    A network predicts *classes* 0, 1, ..., that is category - 1.

    Attributes:
        names: of the categories, in order.
        things: which of them come in instances.

    Raises:
        UserError: without a category, or with a thing that is none.

    Example:
        >>> Categories(names=("sky", "ball"), things=("ball",)).thing_classes
        (1,)
    """

    names: tuple[str, ...]
    things: tuple[str, ...]

    def __post_init__(self) -> None:
        strange = set(self.things) - set(self.names)
        if not self.names or strange:
            raise UserError(
                f"things={self.things} must be among the categories {self.names}, and "
                "there must be one."
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def thing_classes(self) -> tuple[int, ...]:
        """Classes that come in instances."""
        return tuple(i for i, name in enumerate(self.names) if name in self.things)

    @cached_property
    def is_thing(self) -> NDArray[np.bool_]:
        """Whether a *category* comes in instances, bool `[1 + K]`; void does not."""
        return np.array([False, *(name in self.things for name in self.names)])

    @staticmethod
    def of(vocabularies: Mapping[str, tuple[str, ...]]) -> "Categories":
        """From a data set's vocabularies `panoptic` (void first) and `things`.

        Raises:
            UserError: if the data set has no panoptic maps.
        """
        names = vocabularies.get("panoptic", ())
        if len(names) < 2:
            raise UserError(
                "deeplab2 needs panoptic maps, a field `panoptic` and its vocabulary; "
                "this data set has none. Use --dataset scenes or coco-panoptic:PATH."
            )
        return Categories(names=names[1:], things=vocabularies.get("things", ()))
