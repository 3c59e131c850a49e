"""Does one more round fit? An exact answer that rarely has to be computed.

Epsilon grows with every count, so the counts known to fit answer for all smaller ones,
and the counts known not to fit for all larger ones. A question that neither answers is
computed: first by Renyi divergences, which are cheap and on the safe side, then by the
ledger's accountant, whose answer also says where to look for a larger set of counts
that fits. A whole run needs a handful of such computations, whatever its length.
"""

from dataclasses import dataclass, field

from accounting import composition, pld
from accounting.mechanism import SampledGaussian

Counts = dict[str, int]
"""How many reservations there are of each mechanism, by digest."""


@dataclass
class Budget:
    """Which counts stay within (epsilon, delta); remembers what it has worked out.

    Attributes:
        epsilon: the budget, natural log; None means unlimited.
        delta: at which it holds.
        mechanisms: by digest; the ledger adds to it.
    """

    epsilon: float | None
    delta: float
    mechanisms: dict[str, SampledGaussian] = field(default_factory=dict)
    _fits: list[Counts] = field(default_factory=list)
    _exceeds: list[Counts] = field(default_factory=list)

    def allows(self, counts: Counts, next_digest: str, planned: int = 1) -> bool:
        """Whether `counts`, the next round included, stay within the budget.

        Guarantee: True only if an upper bound of epsilon is at most the budget.

        Args:
            counts: reservations by mechanism, the next one included.
            next_digest: which mechanism the next one is of.
            planned: reservations of it that are likely to follow, this one included.
        """
        if self.epsilon is None:
            return True
        if any(_covers(known, counts) for known in self._fits):
            return True
        if any(_covers(counts, known) for known in self._exceeds):
            return False
        spent = self._cost(counts, self.epsilon)
        if spent > self.epsilon:
            self._exceeds.append(counts)
            return False
        self._remember(counts)
        if planned > 1:
            ahead = {**counts, next_digest: counts[next_digest] + planned - 1}
            if self._cost(ahead, self.epsilon) <= self.epsilon:
                self._remember(ahead)
                return True
        self._look_ahead(counts, next_digest, spent, self.epsilon)
        return True

    def _look_ahead(
        self, counts: Counts, digest: str, spent: float, budget: float
    ) -> None:
        """Find out now, with one more computation, how many more rounds fit."""
        # Epsilon grows at least like the square root of the number of rounds; the
        # first guess may overshoot, the halved ones that follow are ever safer.
        growth = min((budget / spent) ** 2 - 1 if spent > 0 else 1.0, 1.0)
        for _ in range(3):
            ahead = {name: int(n * (1 + growth)) for name, n in counts.items()}
            ahead[digest] = max(ahead[digest], counts[digest] + 1)
            if any(_covers(ahead, known) for known in self._exceeds):
                growth /= 2
                continue
            if self._cost(ahead, budget) <= budget:
                self._remember(ahead)
                return
            self._exceeds.append(ahead)
            growth /= 2

    def _remember(self, counts: Counts) -> None:
        self._fits = [known for known in self._fits if not _covers(counts, known)]
        self._fits.append(counts)

    def _cost(self, counts: Counts, enough: float) -> float:
        """An upper bound; the tight one only where the cheap one is too much."""
        spends = spends_of(counts, self.mechanisms)
        if composition.rdp_supports(spends):
            by_rdp = composition.rdp_epsilon(spends, self.delta)
            if by_rdp <= enough or not composition.pld_supports(spends):
                return by_rdp
            if self.delta < pld.SMALLEST_DELTA:
                return by_rdp
        return composition.pld_epsilon(spends, self.delta)


def spends_of(
    counts: Counts, mechanisms: dict[str, SampledGaussian]
) -> tuple[composition.Spend, ...]:
    """Counts of reservations as (mechanism, rounds): a reservation pays a period."""
    return tuple(
        (mechanisms[digest], count * mechanisms[digest].period)
        for digest, count in sorted(counts.items())
        if count
    )


def _covers(large: Counts, small: Counts) -> bool:
    """Whether `large` has at least as many of everything."""
    return all(large.get(digest, 0) >= count for digest, count in small.items())
