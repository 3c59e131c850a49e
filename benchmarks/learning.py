"""What the zoo learns: at first, without noise, and at epsilon, in one table.

    python -m benchmarks.learning cv_mim deeplab2 --users 1000000 --epsilon 2

Every system is trained by `fedemb simulate --model NAME --compare-non-private` on its
default generated data, for a population that is really sampled (nothing is
extrapolated). *Kept* is the share of the gain without noise that is left with it.
"""

import argparse
from dataclasses import dataclass

from benchmarks.arguments import positive, whole
from benchmarks.simulated import metrics_of, report_of
from fedemb.errors import NotAvailable, UserError
from model_zoo import registry


@dataclass(frozen=True)
class Learned:
    """The headline metric of one run."""

    system: str
    metric: str
    seed: int
    initial: float
    private: float
    non_private: float
    epsilon: float
    rounds: int
    parameters: int
    seconds: float

    @property
    def kept(self) -> float:
        gain = self.non_private - self.initial
        return (self.private - self.initial) / gain if gain > 0 else float("nan")

    def row(self) -> str:
        return (
            f"| `{self.system}` | {self.metric} | {self.seed} | {self.rounds} | "
            f"{self.parameters:,} | {self.initial:.3f} | {self.non_private:.3f} | "
            f"{self.private:.3f} | {self.epsilon:.2f} | {100 * self.kept:.0f} % | "
            f"{self.seconds:.0f} |"
        )


COLUMNS = (
    *("system", "metric", "seed", "rounds", "trained parameters", "at first"),
    *("without noise", "private", "epsilon", "kept", "seconds"),
)


def learn(name: str, users: int, epsilon: float, seed: int, more: list[str]) -> Learned:
    options = [
        *("--users", str(users), "--epsilon", str(epsilon), "--seed", str(seed)),
        *("--compare-non-private", *more),
    ]
    report = report_of(name, options)
    metric = registry.get(name).metric
    initial, final, non_private = (
        metrics_of(report, when)[metric] for when in ("initial", "final", "non_private")
    )
    return Learned(
        system=name,
        metric=metric,
        seed=seed,
        initial=initial,
        private=final,
        non_private=non_private,
        epsilon=report["privacy"]["epsilon"],
        rounds=report["rounds_completed"],
        parameters=report["privacy"]["trained_parameters"],
        seconds=report["performance"]["seconds"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", default=registry.names())
    parser.add_argument("--users", type=whole(1), default=1_000_000)
    parser.add_argument("--epsilon", type=positive, default=2.0)
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[0])
    parser.add_argument("--dataset", help="other than the system's own generated data")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    for name in options.systems:
        try:
            registry.get(name)
        except (NotAvailable, UserError) as error:
            parser.error(str(error))
    more = [word for setting in options.settings for word in ("--set", setting)]
    more += ["--dataset", options.dataset] if options.dataset else []
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * len(COLUMNS)}")
    for name in options.systems:
        for seed in options.seeds:
            found = learn(name, options.users, options.epsilon, seed, more)
            print(found.row(), flush=True)


if __name__ == "__main__":
    main()
