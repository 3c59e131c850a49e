"""`fedemb models` and `fedemb datasets`: what there is to train, and on what."""

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


def _json(content: object) -> None:
    import json

    print(json.dumps(content, indent=2))
