"""The numbers of one CV-MIM model, published or small."""

from dataclasses import dataclass

from fedemb.errors import UserError

_WEIGHTS = {
    "disentangle": ("representation", "view", "prior", "disentangle", "intra", "inter"),
    "align": ("representation", "view"),
    "infomax": ("representation", "view"),
    "autoencoder": (),
}
"""Which weights the loss of an algorithm has."""

ALGORITHMS = tuple(_WEIGHTS)
FUSIONS = ("moe", "poe", "cat")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model is and what it is trained for.

    Attributes:
        algorithm: `disentangle`, the full method; `align`, one shared code that is not
            split (InfoMix); `infomax`, pose codes of one view fused with view codes of
            the other; `autoencoder`, reconstruction with exchanged pose codes.
        fusion: of pose and view code: `moe` (average), `poe` (product) or `cat`.
        hidden: width of all layers.
        pose_dim: of the pose code, the embedding.
        view_dim: of the view code.
        blocks: residual blocks.
        dropout: share of units to drop in training.
        gaussian: codes are Gaussian (mean and log-variance).
        representation_weight: of the term by which codes keep all that a pose shows;
            0 leaves it out.
        view_weight: w_v, of the cross-view term.
        prior_weight: of the adversarial match to a uniform prior; 0 leaves it out.
        disentangle_weight: of the intra- and inter-view bounds; 0 leaves them out.
        intra_weight: of the bound within a view alone, times `disentangle_weight`.
        inter_weight: of the bound between views alone, likewise.
        critics_rate: how many times faster than the sub-encoder the likelihood
            estimators and the discriminator learn; a factor of their own objectives,
            which move nothing else.
        kl_weight: of the divergence of Gaussian codes.
        max_mpjpe_2d: normalised 2D poses no farther apart count as positive pairs of
            the representation term; None takes the diagonal.
        max_mpjpe_3d: the same for aligned 3D poses and the cross-view term.

    Raises:
        UserError: for unknown names, numbers out of range, or a weight of a term that
            the algorithm does not have.
    """

    algorithm: str = "disentangle"
    fusion: str = "moe"
    hidden: int = 1024
    pose_dim: int = 32
    view_dim: int = 32
    blocks: int = 2
    dropout: float = 0.25
    gaussian: bool = False
    representation_weight: float = 1.0
    view_weight: float = 5.0
    prior_weight: float = 1.0
    disentangle_weight: float = 0.5
    intra_weight: float = 1.0
    inter_weight: float = 1.0
    critics_rate: float = 1.0
    kl_weight: float = 1.0
    max_mpjpe_2d: float | None = None
    max_mpjpe_3d: float | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UserError(
                f"algorithm={self.algorithm!r} must be one of {', '.join(ALGORITHMS)}."
            )
        if self.fusion not in FUSIONS:
            raise UserError(
                f"fusion={self.fusion!r} must be one of {', '.join(FUSIONS)}."
            )
        if min(self.hidden, self.pose_dim, self.blocks) < 1:
            raise UserError("hidden, pose_dim and blocks must be at least 1.")
        self._check_weights()
        if not 0 < self.critics_rate < float("inf"):
            raise UserError(
                f"critics_rate={self.critics_rate} must be positive, and finite."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} must be in [0, 1).")
        split = self.algorithm != "align"
        if split and self.fusion != "cat" and self.pose_dim != self.view_dim:
            raise UserError(
                f"fusion={self.fusion!r} needs pose_dim={self.pose_dim} to equal "
                f"view_dim={self.view_dim}; use fusion='cat' or equal sizes."
            )

    def _check_weights(self) -> None:
        for name in _WEIGHTS["disentangle"]:
            value = getattr(self, f"{name}_weight")
            if not 0 <= value < float("inf"):
                raise UserError(f"{name}_weight={value} must be 0 or more, and finite.")
            usual = type(self).__dataclass_fields__[f"{name}_weight"].default
            if value != usual and name not in _WEIGHTS[self.algorithm]:
                raise UserError(
                    f"{name}_weight={value} does not apply to algorithm="
                    f"{self.algorithm!r}, whose loss has no such term; leave it at "
                    f"{usual}, or use algorithm='disentangle'."
                )

    @property
    def view_codes(self) -> int:
        """Width of the view code; 0 where codes are not split."""
        return 0 if self.algorithm == "align" else self.view_dim

    @property
    def code_dim(self) -> int:
        """Width of the encoder's output, pose code and view code."""
        return self.pose_dim + self.view_codes

    @property
    def summary_dim(self) -> int:
        """Width of the sub-encoder's output."""
        fused = self.algorithm == "align" or self.fusion == "cat"
        return self.code_dim if fused else self.pose_dim
