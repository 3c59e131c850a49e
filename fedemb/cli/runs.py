"""`fedemb simulate` and `fedemb resume`."""

import datetime
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedemb.cli.options import (
    DATA,
    Amplify,
    Dataset,
    Frames,
    ImageColumn,
    ImageSize,
    LabelColumn,
    Model,
    Number,
    Pretrained,
    Recipe,
    ReportAsJson,
    RequireReal,
    Root,
    Settings,
    SkipBad,
    Text,
    Trainable,
    UserColumn,
    Users,
    Whole,
    chosen,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("simulate")(simulate)
    app.command("resume")(resume)


def simulate(
    dataset: Dataset = None,
    epsilon: Annotated[
        Number, typer.Option(help="Target epsilon; the noise is calibrated to it.")
    ] = None,
    delta: Annotated[Number, typer.Option(help="Default: population ** -1.1.")] = None,
    noise_multiplier: Annotated[
        Number, typer.Option(help="Noise instead of epsilon; 0 trains without privacy.")
    ] = None,
    rounds: Annotated[Whole, typer.Option(help="Rounds of training.")] = None,
    users_per_round: Annotated[
        Number, typer.Option(help="Expected users in a round.")
    ] = None,
    users_per_virtual_client: Annotated[
        Whole, typer.Option(help="Users trained and clipped together.")
    ] = None,
    clip_norm: Annotated[
        Number,
        typer.Option(help="Norm that every virtual client's update is clipped to."),
    ] = None,
    model: Model = None,
    pretrained: Pretrained = None,
    trainable: Trainable = None,
    population: Annotated[
        Whole, typer.Option(help="Extrapolate the claim to a larger population.")
    ] = None,
    runner: Annotated[Text, typer.Option(help="inline, processes or flower.")] = None,
    workers: Annotated[Whole, typer.Option(help="Processes or Flower nodes.")] = None,
    engine: Annotated[
        Text,
        typer.Option(
            help="auto, serial, flat, stacked, grouped, vectorized or shared."
        ),
    ] = None,
    sampler: Annotated[
        Text,
        typer.Option(
            help="poisson-virtual-clients, poisson-users, fixed-size, "
            "full-participation, truncated-poisson, shuffled, cyclic, "
            "random-allocation or balls-in-bins."
        ),
    ] = None,
    mechanism: Annotated[
        Text,
        typer.Option(
            help="Noise: gaussian (independent), tree (DP-FTRL) or banded (matrix "
            "factorisation)."
        ),
    ] = None,
    accountant: Annotated[Text, typer.Option(help="pld or rdp.")] = None,
    seed: Annotated[
        Whole,
        typer.Option(
            help="Reproducible run; its noise is private only to those who do not "
            "know the seed."
        ),
    ] = None,
    ledger: Annotated[
        Text,
        typer.Option(
            help="The population's shared ledger; default: one in the run folder."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/DATASET-TIME.")
    ] = None,
    recipe: Recipe = None,
    set_: Settings = None,
    users: Users = None,
    root: Root = None,
    amplify: Amplify = None,
    image_size: ImageSize = None,
    frames: Frames = None,
    user_column: UserColumn = None,
    label_column: LabelColumn = None,
    image_column: ImageColumn = None,
    skip_bad: SkipBad = False,
    require_real: RequireReal = False,
    adaptive_clipping: Annotated[
        bool,
        typer.Option(
            "--adaptive-clipping", help="Follow the median update norm, privately."
        ),
    ] = False,
    compare_non_private: Annotated[
        bool,
        typer.Option(
            "--compare-non-private", help="Also run without noise, for comparison."
        ),
    ] = False,
    baseline: Annotated[Text, typer.Option(help="none, dp-fedavg or dp-sgd.")] = None,
    json_: ReportAsJson = False,
) -> None:
    """Calibrate, train, evaluate and report.

    Example: fedemb simulate --dataset inaturalist --epsilon 2
    """
    options = locals()
    from fedemb.cli.console import ConsoleListener, print_json
    from simulations.assembly import layered
    from simulations.layers import parse_setting

    given: dict[str, dict[str, Any]] = {
        "data": {name: options[name] for name in DATA},
        "model": {"pretrained": pretrained, "trainable": trainable},
        "privacy": {
            "epsilon": epsilon,
            "delta": delta,
            "noise_multiplier": noise_multiplier,
            "population": population,
            "sampler": sampler,
            "mechanism": mechanism,
            "users_per_round": users_per_round,
            "users_per_virtual_client": users_per_virtual_client,
            "clip_norm": clip_norm,
            "adaptive_clipping": adaptive_clipping,
            "accountant": accountant,
        },
        "run": {
            "rounds": rounds,
            "runner": runner,
            "workers": workers,
            "engine": engine,
            "seed": seed,
            "ledger": ledger,
            "compare_non_private": compare_non_private,
            "baseline": baseline,
        },
    }
    if epsilon is not None and noise_multiplier is not None:
        raise typer.BadParameter(
            f"--epsilon {epsilon} and --noise-multiplier {noise_multiplier} exclude "
            "each "
            "other; give one of them."
        )
    settings = [parse_setting(text) for text in set_ or []]
    if dataset is None and model is None:
        dataset = "openclipart"
    configuration = layered(dataset, model, recipe, chosen(given), *settings)
    folder = out or new_folder(configuration.data.name)
    from simulations.run import simulate as run

    with resumable(folder), ConsoleListener() as listener:
        report = run(configuration, folder, listener)
    _close(report, folder, json_, print_json)


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of an interrupted run.")],
    json_: ReportAsJson = False,
) -> None:
    """Continue an interrupted run.

    Example: fedemb resume runs/inaturalist-20260101-120000
    """
    from fedemb.cli.console import ConsoleListener, print_json
    from simulations.run import resume as again

    with resumable(run), ConsoleListener() as listener:
        report = again(run, listener)
    _close(report, run, json_, print_json)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how to go on when a person interrupts the run, or the disk is full."""
    try:
        yield
    except KeyboardInterrupt:
        from fedemb.errors import Interrupted

        raise Interrupted(
            f"interrupted; nothing is lost. Continue with: fedemb resume {folder}"
        ) from None
    except Exception as error:
        if not _disk_is_full(error):
            raise
        from fedemb.errors import UserError

        raise UserError(
            f"the disk of {folder} is full; free some space, then continue with: "
            f"fedemb resume {folder}"
        ) from error


def _disk_is_full(error: Exception) -> bool:
    """Whether a file, or the ledger behind its own error, found no space."""
    behind = error.__context__
    return (
        getattr(error, "errno", None) == errno.ENOSPC
        or getattr(behind, "sqlite_errorname", "") == "SQLITE_FULL"
    )


def _close(
    report: dict[str, Any], folder: Path, as_json: bool, print_json: Any
) -> None:
    if as_json:
        print_json(report)
    else:
        privacy = report["privacy"]
        spent = privacy["epsilon_spent"]
        shown = "infinite" if spent is None else f"{spent:.4g}"
        print(
            f"epsilon {shown} at delta {privacy['delta']:.3g} "
            f"[{report['dataset']['source']} data]"
        )
        print(f"report  {folder / 'report.html'}")
    if report["stopped_early"]:
        from accounting import BudgetExhausted

        raise BudgetExhausted(
            f"{report['stopped_early']} {report['rounds_completed']} rounds are "
            "complete "
            f"and reported in {folder}."
        )


def new_folder(dataset: str) -> Path:
    """Where a run goes that nobody gave a folder."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = Path(dataset.partition(":")[2]).stem if ":" in dataset else dataset
    return Path("runs") / f"{name or 'run'}-{stamp}"
