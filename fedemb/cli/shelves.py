"""`fedemb models` and `fedemb datasets`: what there is to train, and on what."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    models = typer.Typer(help="The zoo of systems.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("describe")(describe_model)
    app.add_typer(models, name="models")
    data = typer.Typer(help="Data sets.", no_args_is_help=True)
    data.command("list")(list_datasets)
    data.command("describe")(describe_dataset)
    data.command("prepare")(prepare_dataset)
    data.command("verify")(verify_dataset)
    app.add_typer(data, name="datasets")


def list_models(json_: AsJson = False) -> None:
    """All systems that can be trained."""
    from model_zoo import registry

    systems = [registry.get(name) for name in registry.names()]
    if json_:
        _json(
            {
                "models": [
                    {
                        "name": s.name,
                        "paper": s.paper,
                        "configurations": list(s.configurations),
                    }
                    for s in systems
                ]
            }
        )
        return
    for system in systems:
        print(f"{system.name:<28} {', '.join(system.configurations)}")


def describe_model(
    name: Annotated[str, typer.Argument(help="NAME or NAME:CONFIGURATION.")],
    json_: AsJson = False,
) -> None:
    """Backbone, head, user and parameter counts of a system.

    Example: fedemb models describe lenet
    """
    from model_zoo import registry

    content = registry.describe(name)
    if json_:
        _json(content)
        return
    print(f"{content['name']}\n  paper  {content['paper']}\n  user   {content['user']}")
    for stage in content["stages"]:
        print(f"  stage  {stage}")
    for key, value in content["configurations"].items():
        print(
            f"  {key}: backbone {value['backbone_parameters']:,} (aggregated), head "
            f"{value['head_parameters']:,} (local), total "
            f"{value['total_parameters']:,}; "
            f"{value['note']}"
        )


def list_datasets(json_: AsJson = False) -> None:
    """All data sets."""
    from simulations import datasets

    cards = [datasets.describe(name) for name in datasets.names()]
    if json_:
        _json(
            {
                "datasets": [
                    {"name": c.name, "description": c.description} for c in cards
                ]
            }
        )
        return
    for card in cards:
        print(f"{card.name:<20} {card.description}")


def describe_dataset(
    name: Annotated[str, typer.Argument(help="A data set.")], json_: AsJson = False
) -> None:
    """What a data set is, and which files and options it takes."""
    from simulations import datasets

    card = datasets.describe(name)
    content = {
        "name": card.name,
        "description": card.description,
        "options": sorted(card.options),
        "files": list(card.files),
    }
    if json_:
        _json(content)
        return
    print(f"{card.name}: {card.description}")
    print(f"  options  {', '.join(sorted(card.options)) or 'none'}")
    for file in card.files:
        print(f"  file     {file}")


def prepare_dataset(
    name: Annotated[str, typer.Argument(help="A data set of image files.")],
    root: Annotated[
        Path, typer.Option(help="Where its files lie, and the shards will.")
    ] = Path("data"),
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels.")
    ] = None,
    user_column: Annotated[str | None, typer.Option(help="Column of users.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of labels.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of images.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads; default: one per core.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of splits; public.")] = 0,
    json_: AsJson = False,
) -> None:
    """Decode, resize and group images by user, once, into memory-mapped shards.

    Continues where an interrupted preparation stopped.

    Example: fedemb datasets prepare inaturalist --root data --image-size 64
    """
    from dataclasses import asdict

    from fedemb.cli.console import counting
    from simulations.datasets.prepare import prepare

    with counting("images") as progress:
        report = prepare(
            name,
            root=root,
            image_size=image_size,
            seed=seed,
            user_column=user_column,
            label_column=label_column,
            image_column=image_column,
            workers=workers,
            progress=progress,
        )
    if json_:
        _json({key: _plain(value) for key, value in asdict(report).items()})
        return
    print(
        f"{report.images:,} images of {report.users:,} users in {report.folder} "
        f"({report.seconds:.1f} s, {len(report.bad)} unreadable)"
    )
    for file, reason in report.bad[:10]:
        print(f"  unreadable: {file}: {reason}")
    for text in report.notices:
        print(f"  notice: {text}")


def verify_dataset(
    name: Annotated[str, typer.Argument(help="A data set that was prepared.")],
    root: Annotated[Path, typer.Option(help="Where its shards lie.")] = Path("data"),
    image_size: Annotated[
        int | None, typer.Option(help="Side that it was prepared with.")
    ] = None,
    user_column: Annotated[str | None, typer.Option(help="Column of users.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of labels.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of images.")] = None,
    json_: AsJson = False,
) -> None:
    """Compare every prepared shard with its checksum; exit code 2 if one differs.

    Example: fedemb datasets verify inaturalist --root data --image-size 64
    """
    from fedemb.errors import NotAvailable, UserError
    from simulations.datasets.prepare import module_with_listing
    from simulations.datasets.prepared import open_prepared, prepared_folder
    from simulations.datasets.registry import options_for

    module_with_listing(name)
    options = options_for(
        name,
        root=root,
        image_size=image_size,
        user_column=user_column,
        label_column=label_column,
        image_column=image_column,
    )
    data = open_prepared(options)
    if data is None:
        raise NotAvailable(
            f"{prepared_folder(options)} holds no finished preparation of {name}; run "
            "`fedemb datasets prepare` with the same options first."
        )
    damaged = data.verify()
    if damaged:
        raise UserError(
            f"{data.folder}: {', '.join(damaged)} differ from what was written; run "
            "`fedemb datasets prepare` again, it rewrites them."
        )
    shards = len(data.manifest["shards"])
    if json_:
        _json({"folder": str(data.folder), "shards": shards, "damaged": damaged})
        return
    print(f"{data.folder}: {shards} shards are as they were written")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _json(content: object) -> None:
    import json

    print(json.dumps(content, indent=2))
