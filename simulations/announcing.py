"""What a run says before it spends anything: the guarantee, and what the noise does."""

from math import isfinite

from accounting import EpsilonReport, PrivacyStatement
from fedemb.noise_forecast import NoiseForecast
from simulations.assembly import Assembly
from simulations.listener import Listener
from simulations.promise import Promise

LARGE_DELTA = 0.01
"""A larger delta is a guarantee that nobody should lean on."""


def announce(
    assembly: Assembly,
    promise: Promise,
    statement: PrivacyStatement,
    forecast: NoiseForecast,
    listener: Listener,
) -> None:
    """Tell the listener what is about to be spent, and on what."""
    claimed = statement.claimed
    mechanism, plan = claimed.mechanism, promise.plan
    provenance = assembly.dataset.provenance
    listener.fact("data", f"{provenance.description} [{provenance.source.value}]")
    listener.fact("unit, adjacency", f"{mechanism.unit}, {mechanism.adjacency}")
    listener.fact(
        "sampling",
        f"{mechanism.sampler}, q = {mechanism.sampling_probability:.4g}: "
        f"{mechanism.users_per_round:,.6g} of {mechanism.population:,} users a round, "
        f"{mechanism.users_per_virtual_client} per virtual client",
    )
    listener.fact(
        "privacy",
        f"epsilon = {claimed.epsilon:.4g} at delta = {claimed.delta:.3g} after "
        f"{claimed.rounds} rounds ({mechanism.noise} noise, multiplier "
        f"{mechanism.noise_multiplier:.4g}; {_other_bound(claimed)})",
    )
    if claimed.delta > LARGE_DELTA and isfinite(claimed.epsilon):
        listener.notice(
            f"delta = {claimed.delta:.2g} is too large to protect anybody: publishing "
            f"every {mechanism.unit}'s data outright with that probability would "
            f"satisfy it. {mechanism.population:,} are very few; bring more, or give a "
            "smaller --delta."
        )
    if promise.extrapolated:
        listener.notice(
            f"Epsilon is EXTRAPOLATED to a population of {mechanism.population:,}; "
            f"this run over {plan.mechanism.population:,} users costs epsilon = "
            f"{plan.spent().epsilon:.4g}."
        )
    for item in statement.public_inputs:
        listener.fact("public", item)
    listener.fact(
        "noise",
        f"{forecast.relative_noise:.3g} x the clip norm on the averaged update of "
        f"{forecast.trained_parameters:,} parameters",
    )
    if forecast.warns:
        listener.notice(forecast.advice)
    skipped = skipped_stages(assembly)
    if skipped:
        listener.notice(skipped)


def skipped_stages(assembly: Assembly) -> str:
    """That a run is too short for some stages; empty if it is not."""
    rounds = assembly.rounds()
    without = [
        f"{stage.name} ({100 * stage.share_of_rounds:.3g} % of the rounds)"
        for stage, own in zip(assembly.stages, rounds, strict=True)
        if not own
    ]
    if not without:
        return ""
    enough = sum(rounds) + 1
    while not all(assembly.split_rounds(enough)):
        enough += 1
    return (
        f"{sum(rounds)} rounds are too few for every stage: nothing will be trained in "
        f"{', '.join(without)}. With --rounds {enough} every stage has a round."
    )


def _other_bound(claimed: EpsilonReport) -> str:
    """The bound by Renyi divergences, or that there is none."""
    if claimed.epsilon_rdp is None:
        return "no RDP bound is proved for this sampler"
    return f"RDP bound {claimed.epsilon_rdp:.4g}"
