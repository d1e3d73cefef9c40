"""The training pipeline's command line: `python -m training fit arrival_delay`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from punctual.clock import starting_moment
from punctual.command_line import (
    Group,
    as_of_option,
    common_options,
    json_option,
    quiet_option,
    run,
    show_json,
    show_table,
)
from punctual.home import Home
from punctual.plain import plain
from punctual.progress import Progress, working
from punctual.times import moment as read_moment

if TYPE_CHECKING:
    from punctual.model_card import ModelCard


@click.group(cls=Group)
def cli() -> None:
    """Train, evaluate, gate, register and roll back models."""


@cli.command(
    epilog="Example: python -m training fit arrival_delay --as-of 2014-01-04 --until"
    " 2013-09-01,2013-10-01,2014-01-01"
)
@click.argument("use_case")
@as_of_option
@click.option(
    "--until",
    metavar="TRAIN,VALIDATION,TEST",
    help="End times of the three parts, instead of the declared durations.",
)
@click.option(
    "--random-split",
    is_flag=True,
    help="Also score the model on a random split, to show how much a leak would inflate the score.",
)
@json_option
@quiet_option
@common_options
def fit(
    home: Home,
    use_case: str,
    as_of: str | None,
    until: str | None,
    random_split: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train, evaluate, gate and register a model.

    The model becomes USE_CASE's champion if it passes the gate. A refused model stays in the model
    registry as challenger, and the exit code is 3.
    """
    from punctual.repository import feature_store, find_use_case
    from training.run import raise_if_refused, train

    loaded, declared = find_use_case(home, use_case)
    ends = None if until is None else _ends(until)
    time = starting_moment(home, as_of, loaded.domain.demo_at)
    progress = Progress(quiet=quiet or as_json)
    with progress.steps("train", 6 if random_split else 5):
        done = train(
            feature_store(home),
            loaded,
            declared,
            as_of=time,
            progress=progress,
            until=ends,
            random_split=random_split,
        )
    if as_json:
        show_json({"promoted": done.promoted, "verdict": done.verdict, "card": done.card})
    else:
        show_card(done.card)
        if done.promoted:
            click.echo(
                f"\nVersion {done.card.version} {done.verdict.message}, and is champion now."
            )
    raise_if_refused(home, done)


def _ends(text: str) -> tuple[datetime, datetime, datetime]:
    parts = text.split(",")
    if len(parts) != 3:
        raise click.BadParameter(
            f"expected three times separated by commas, got {len(parts)}", param_hint="--until"
        )
    train, validation, test = (read_moment(part.strip()) for part in parts)
    if not train < validation < test:
        raise click.BadParameter(
            f"the parts end at {text}; expected each end later than the previous one",
            param_hint="--until",
        )
    return train, validation, test


@cli.command(epilog="Example: python -m training card arrival_delay")
@click.argument("use_case")
@click.option("--version", help="A version of the model.  [default: the champion]")
@json_option
@common_options
def card(home: Home, use_case: str, version: str | None, as_json: bool) -> None:
    """Show a model card.

    The card of USE_CASE's champion, or of the given version.
    """
    with working("reading the model registry", quiet=as_json):
        from punctual.repository import find_use_case
        from stores.models import read_card

        find_use_case(home, use_case)
        found = read_card(home, use_case, version)
    if as_json:
        show_json(found)
    else:
        show_card(found)


@cli.command(epilog="Example: python -m training rollback arrival_delay")
@click.argument("use_case")
@click.option(
    "--to",
    metavar="VERSION",
    help="The version to restore.  [default: the previous champion]",
)
@json_option
@common_options
def rollback(home: Home, use_case: str, to: str | None, as_json: bool) -> None:
    """Restore an earlier champion.

    A running server of USE_CASE switches to that version.
    """
    with working("writing to the model registry", quiet=as_json):
        from punctual.repository import find_use_case
        from training import publish

        find_use_case(home, use_case)
        before, after = publish.rollback(home, use_case, to)
    if as_json:
        show_json({"use_case": use_case, "from": before, "to": after})
    elif before == after:
        click.echo(f"Version {after} is already the champion of {use_case}; nothing is changed.")
    else:
        click.echo(
            f"Version {after} is the champion of {use_case} again, instead of version {before}."
        )


@cli.command(
    "training-set",
    epilog="Example: python -m training training-set arrival_delay --as-of 2013-12-01 --out"
    " rows.parquet",
)
@click.argument("use_case")
@as_of_option
@click.option("--out", type=click.Path(dir_okay=False), help="Write the rows to this Parquet file.")
@json_option
@common_options
def training_set_command(
    home: Home, use_case: str, as_of: str | None, out: str | None, as_json: bool
) -> None:
    """Make a training set as of a time.

    Shows the manifest, from which the same training set of USE_CASE can be rebuilt.
    """
    from pathlib import Path

    import pyarrow.parquet as pq

    if out is not None and not Path(out).absolute().parent.is_dir():
        raise click.BadParameter(f"folder {Path(out).parent} does not exist", param_hint="--out")
    with working(f"making the training set of {use_case}", quiet=as_json):
        from punctual.repository import feature_store, find_use_case
        from training.training_set import training_set

        loaded, declared = find_use_case(home, use_case)
        dataset = training_set(
            feature_store(home),
            loaded,
            declared,
            as_of=starting_moment(home, as_of, loaded.domain.demo_at),
        )
    if out is not None:
        temporary = Path(f"{out}.aside")
        pq.write_table(dataset.rows, temporary)
        temporary.replace(out)
    manifest = dataset.manifest()
    if as_json:
        show_json(manifest)
        return
    show_table(
        "Training set",
        ["", "value"],
        [[key, str(value)] for key, value in plain(manifest).items() if key != "tables"],
    )


def show_card(found: ModelCard) -> None:
    """Print the scores, decisions, split and unlabelled rows of a model card."""
    scores = ["roc_auc", "average_precision", "log_loss", "brier", "rmse", "mae", "r2"]
    rows = {f"model, {part}": metrics for part, metrics in found.metrics.items()}
    rows.update(
        {
            f"{name.replace('_', ' ')}, test": parts["test"]
            for name, parts in found.baselines.items()
        }
    )
    shown = [
        score
        for score in scores
        if any(getattr(metrics, score) is not None for metrics in rows.values())
    ]
    show_table(
        f"{found.use_case}, version {found.version}, as of {found.as_of}",
        ["", "rows", *(score.replace("_", " ") for score in shown)],
        [
            [name.replace("_", " "), metrics.rows, *(getattr(metrics, score) for score in shown)]
            for name, metrics in rows.items()
        ],
    )
    if decided := found.metrics["test"].at_threshold:
        show_table(
            "Decisions on the test part",
            ["threshold", "accuracy", "precision", "recall", "f1"],
            [
                [threshold, each.accuracy, each.precision, each.recall, each.f1]
                for threshold, each in decided.items()
            ],
        )
    show_table(
        "Parts",
        ["part", "from", "until", "rows", "label mean"],
        [[n, p.start, p.end, p.rows, p.label_mean] for n, p in found.split.items()],
    )
    if unlabelled := found.training_set.unlabelled:
        click.echo(
            "Without a label and left out: "
            + ", ".join(f"{count:,} {reason}" for reason, count in unlabelled.items())
            + "."
        )


def main(arguments: Sequence[str] | None = None, name: str = "python -m training") -> int:
    """Run the command line; returns the exit code."""
    return run(cli, arguments, name)


if __name__ == "__main__":
    sys.exit(main())
