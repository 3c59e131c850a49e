"""`fedemb pretrain`: public training for private runs to start from."""

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
    Pretrained,
    Recipe,
    ReportAsJson,
    RequiredModel,
    RequireReal,
    Root,
    Settings,
    SkipBad,
    Trainable,
    UserColumn,
    Users,
    chosen,
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("pretrain")(pretrain)


def pretrain(
    model: RequiredModel,
    dataset: Dataset = None,
    steps: Annotated[int, typer.Option(help="Steps of all stages together.")] = 500,
    batch_users: Annotated[
        int, typer.Option(help="Users whose rows a step takes.")
    ] = 16,
    learning_rate: Annotated[
        float, typer.Option(help="Of AdamW, at its highest.")
    ] = 0.003,
    seed: Annotated[
        int, typer.Option(help="Of initial values and batches; not a secret.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="New folder. Default: runs/public-DATASET-TIME.")
    ] = None,
    pretrained: Pretrained = None,
    trainable: Trainable = None,
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
    json_: ReportAsJson = False,
) -> None:
    """Train on PUBLIC data, without privacy, what private runs may start from.

    Whatever data you name are public by your word. Without --dataset they are
    generated, of a seed of their own. Start a run from the folder with: fedemb simulate
    --pretrained FOLDER --set local.head_init=public

    Example: fedemb pretrain --model videoprism --steps 300 --out public
    """
    options = locals()
    from fedemb.cli.console import ConsoleListener, counting, print_json
    from fedemb.cli.runs import new_folder
    from simulations.assembly import layered
    from simulations.central import CentralTraining
    from simulations.layers import parse_setting
    from simulations.pretraining import NOT_PRIVATE, PUBLIC_SEED
    from simulations.pretraining import pretrain as run

    training = CentralTraining(
        steps=steps, batch_users=batch_users, learning_rate=learning_rate, seed=seed
    )
    given: dict[str, dict[str, Any]] = {
        "data": {
            "seed": PUBLIC_SEED if dataset is None else None,
            **{name: options[name] for name in DATA},
        },
        "model": {"pretrained": pretrained, "trainable": trainable},
        "privacy": {"noise_multiplier": 0.0},
    }
    settings = [parse_setting(text) for text in set_ or []]
    configuration = layered(dataset, model, recipe, chosen(given), *settings)
    folder = out or new_folder(f"public-{configuration.data.name}")
    with ConsoleListener() as listener, counting("steps") as progress:
        report = run(
            configuration,
            training,
            folder,
            listener,
            named=dataset is not None,
            progress=progress,
        )
    if json_:
        print_json(report)
        return
    print(f"{NOT_PRIVATE} [{report['dataset']['source']} data]")
    print(
        f"start from it: fedemb simulate --model {model} --pretrained {folder} "
        "--set local.head_init=public"
    )
