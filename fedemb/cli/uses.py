"""`fedemb evaluate`, `embed`, `search`, `export` and `report`: use of a trained run."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="Folder of a complete run.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("evaluate")(evaluate)
    app.command("embed")(embed)
    app.command("search")(search)
    app.command("export")(export)
    app.command("report")(report)


def evaluate(
    run: Run,
    dataset: Annotated[
        str | None, typer.Option(help="Another data set's held-out examples.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="videoglue: adapt a video encoder to public clips in four ways."
        ),
    ] = None,
    videoglue_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the published VideoGLUE data sets (kinetics400/, "
            "charades/, ...); without it the protocol generates its problems."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge this beside RUN, too: another run's folder, an encoder of the "
            "zoo before training (NAME or NAME:CONFIGURATION), or zoo for all of them. "
            "Repeat it for more."
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option(help="Of each problem of a protocol, to adapt and to score.")
    ] = 512,
    steps: Annotated[int, typer.Option(help="Of each adaptation of a protocol.")] = 200,
    json_: AsJson = False,
) -> None:
    """Metrics of a trained backbone on held-out examples, or by a protocol.

    Example: fedemb evaluate runs/inaturalist-20260101-120000

    Example: fedemb evaluate runs/a --protocol videoglue --against runs/b --against zoo
    """
    from fedemb.cli.console import print_json, shown_number
    from simulations.outcome import only_metrics, undefined_metrics
    from simulations.trained import TrainedRun

    if protocol is not None:
        others = against or []
        _by_protocol(run, protocol, others, clips, steps, videoglue_root, json_)
        return
    unused = [f"against={name}" for name in against or []]
    if videoglue_root is not None:
        unused.append(f"videoglue_root={videoglue_root}")
    if unused:
        from fedemb.errors import UserError

        raise UserError(f"{', '.join(unused)} needs --protocol videoglue beside it.")
    metrics = TrainedRun.open(run, dataset).evaluate()
    if json_:
        shown = only_metrics(metrics)
        print_json({"run": str(run), "dataset": dataset, "metrics": shown})
        return
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        print(f"{name:<{width}} {shown_number(value)}")
    if undefined := undefined_metrics(metrics):
        print(undefined, file=sys.stderr)


def _by_protocol(
    run: Path,
    protocol: str,
    against: list[str],
    clips: int,
    steps: int,
    root: Path | None,
    json_: bool,
) -> None:
    from fedemb.cli.console import print_json
    from fedemb.errors import UserError
    from simulations.judging.judge import judge_run

    if protocol != "videoglue":
        raise UserError(f"protocol={protocol!r} must be videoglue.")
    if clips < 1 or steps < 1:
        raise UserError(f"clips={clips} and steps={steps} must be at least 1.")

    def told(encoder: str, adaptation: str, problem: str, score: float) -> None:
        if not json_:
            name = f"{encoder:<28} " if against else ""
            shown = "not defined" if math.isnan(score) else f"{score:6.2f} %"
            print(f"{name}{adaptation:<12} {problem:<12} {shown}", flush=True)

    found = judge_run(
        run, against=against, clips=clips, steps=steps, root=root, told=told
    )
    if json_:
        print_json(found)
        return
    print(f"problems: {found['source']}")
    for name, parts in found.get("datasets", {}).items():
        for part, tally in parts.items():
            print(
                f"  {name} {part}: {tally['clips']:,} clips of {tally['annotated']:,} "
                f"annotated; {tally['missing']:,} without a file, "
                f"{tally['damaged']:,} damaged {tally['first_damaged']}".rstrip()
            )
    for name, looked in found.get("absent", {}).items():
        print(f"  {name}: not there; looked for {looked}")
    for name, reason in found.get("left_out", {}).items():
        print(f"  {name}: left out; {reason}")
    for one in found.get("comparison", [{"encoder": str(run), "weights": ""} | found]):
        first, third = (one[f"videoglue_score_{version}"] for version in ("v1", "v3"))
        told_as = f"{one['encoder']} ({one['weights']})" if one["weights"] else "score"
        print(f"{told_as:<44} VideoGLUE v1 {first:6.2f}  v3 {third:6.2f}")
    print(f"{run / 'videoglue'}.json, .csv, .md, .svg")


def embed(
    run: Run,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files (for clips also videos, GIFs and folders of frames), or "
            ".npz files with arrays named as the data's."
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Words to embed as well, where the system reads them. Repeat it for "
            "more."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write `embeddings` and `files` (or words) to this .npz."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Embeddings of files and texts, unit length.

    Example: fedemb embed runs/mine photo1.jpg photo2.jpg --out embeddings.npz

    Example: fedemb embed runs/clips clip.mp4 --text "a red circle rises"
    """
    import numpy as np

    from fedemb.errors import UserError
    from simulations.trained import TrainedRun

    if out is not None and out.exists():
        raise UserError(f"{out} already exists; nothing is overwritten.")
    if not files and not text:
        raise UserError("embed wants files, or --text; see fedemb embed --help.")
    trained = TrainedRun.open(run)
    told: list[tuple[str, str]] = []
    found = []
    if files:
        names, values = trained.embed_files(files)
        told += [("file", name) for name in names]
        found.append(values)
    if text:
        told += [("text", words) for words in text]
        found.append(trained.embed_texts(text))
    embeddings = np.concatenate(found)
    if out is not None:
        np.savez(out, embeddings=embeddings, files=[name for _, name in told])
        print(f"{len(embeddings)} embeddings of {embeddings.shape[1]} numbers in {out}")
        return
    import json

    rows = [
        {kind: name, "embedding": [round(float(x), 6) for x in row]}
        for (kind, name), row in zip(told, embeddings, strict=True)
    ]
    if json_:
        print(json.dumps({"embeddings": rows}))
        return
    for row in rows:
        print(json.dumps(row))


def search(
    run: Run,
    query: Annotated[
        Path | None,
        typer.Argument(help="An image file (of clips also a video), or an .npz file."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Words in place of a file, where the system reads them."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many neighbours.")] = 10,
    json_: AsJson = False,
) -> None:
    """Held-out examples that are nearest to a query.

    Example: fedemb search runs/mine query.jpg

    Example: fedemb search runs/clips --text "a red circle rises"
    """
    from fedemb.errors import UserError
    from simulations.trained import TrainedRun

    wanted = query if text is None else text
    if wanted is None or (query is not None and text is not None) or wanted == "":
        raise UserError(
            f"query={query} and text={text!r}: search wants one of them, a file or "
            '--text "some words".'
        )
    found = TrainedRun.open(run).search(wanted, top)
    if json_:
        from fedemb.cli.console import print_json

        print_json({"query": str(wanted), "neighbours": found})
        return
    for hit in found:
        told = hit.get("caption", hit["class"])
        print(f"{hit['similarity']:.4f}  row {hit['row']:<7} {told}")


def export(
    run: Run,
    format_: Annotated[
        str, typer.Option("--format", help="safetensors or onnx.")
    ] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option(help="Default: backbone.FORMAT in the current folder."),
    ] = None,
) -> None:
    """Write the backbone to a file of its own, the privacy statement inside.

    Example: fedemb export runs/mine --format onnx
    """
    from simulations.trained import TrainedRun

    target = out or Path(f"backbone.{format_}")
    TrainedRun.open(run).export(format_, target)
    print(f"{target} ({target.stat().st_size:,} bytes)")


def report(run: Run, json_: AsJson = False) -> None:
    """What a run found and promised.

    Example: fedemb report runs/mine
    """
    from fedemb.cli.console import print_json, shown_number
    from simulations.folder import RunFolder

    folder = RunFolder.open(run)
    content = folder.read_json("report.json")
    if json_:
        print_json(content)
        return
    print((run / "privacy_statement.txt").read_text())
    metrics = content["metrics"]
    names = list(metrics["final"])
    width = max(map(len, names), default=0)
    print(f"{'':<{width}} {''.join(f'{when:>13}' for when in metrics)}")
    for name in names:
        shown = (f"{shown_number(metrics[when].get(name)):>13}" for when in metrics)
        print(f"{name:<{width}} {''.join(shown)}")
    if (run / "report.html").exists():  # a public pre-training has none
        print(f"report {run / 'report.html'}")
