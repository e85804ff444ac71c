"""`seerctl probe`: score frozen features, one subcommand a protocol (see `seerctl.commands.probes`)."""

from __future__ import annotations

import click

from seerctl.cli import PROBES, LazyGroup


@click.group(cls=LazyGroup, table=PROBES, context_settings={"help_option_names": ["-h", "--help"]})
def probe() -> None:
    """Score features: train on one feature file, test on another, report with intervals.

    \b
      seerctl probe knn --train train.h5 --test test.h5 --target label
      seerctl probe linear --train train.h5 --test test.h5 --target label --predictions predictions.csv
    """
