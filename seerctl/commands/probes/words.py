"""`seerctl probe words`: tags by what their pictures look like, across languages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import feature_file, result_options, run, seed_option
from seerctl.console import say, warn
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult
    from seerctl.probes.words import WordsResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe words --test train.h5 --target tags -o words.json",
    "seerctl probe words --test train.h5 --target tags --language gender --least 2 --words words.jsonl --map map.png",
])  # fmt: skip
@feature_file("--test", "Features of pictures with tags.")
@click.option("--target", required=True, metavar="COLUMN", help="Metadata column with the tags: JSON lists, or text.")
@click.option(
    "--separator", metavar="TEXT", show_default="spaces and , ; |", help="What stands between tags of a text."
)
@click.option("--language", metavar="COLUMN", help="Metadata column with the language of a picture's tags.")
@click.option("--languages", type=click.Path(path_type=Path), metavar="FILE",
              help="Languages of tags instead: a table tag,language or JSON {tag: language}.")  # fmt: skip
@click.option("--least", type=click.IntRange(min=1), default=5, help="Pictures that a tag needs.")
@click.option("--dictionary", type=click.Path(path_type=Path), metavar="FILE",
              help="Tags that mean the same, to score: a table tag,other or JSON {tag: other or list}.")  # fmt: skip
@click.option("--k", type=click.IntRange(min=2), show_default="root of half the tags", help="Groups of tags.")
@click.option("--centre/--no-centre", default=True, help="Take off what all tags have in common before comparing.")
@click.option("--words", "table", type=click.Path(path_type=Path), metavar="FILE.jsonl",
              help="Write every tag with its group and its nearest tags, within and across languages.")  # fmt: skip
@click.option("--map", "picture", type=click.Path(path_type=Path), metavar="FILE",
              help="Draw the most frequent tags (.png or .svg, with the places as .json beside it).")  # fmt: skip
@click.option("--map-kind", type=click.Choice(["tsne", "pca"]), default="tsne", help="How the plane is made.")
@click.option("--map-tags", type=click.IntRange(3, 1000), default=120, help="Tags on the map.")
@seed_option
@result_options
def words(
    *, k: int | None, centre: bool, seed: int, table: Path | None, picture: Path | None, map_kind: Any, map_tags: int,
    **options: Any,
) -> None:  # fmt: skip
    """Words by sight: one embedding a tag from its pictures, its nearest tags, groups, a map.

    Metrics: split_half (is a tag from one half of its pictures nearest to itself from the other half?) and, with
    --dictionary, translation_r1 and translation_r5 (is the translation the nearest tag of its language, or among the
    five nearest?). A map needs 'seerctl[report]'.
    """
    from seerctl.probes.words import METRICS, load_words
    from seerctl.probes.words import words as embed

    if picture is not None:
        _check_map(picture)
    loads = {name: options.pop(name) for name in (
        "test", "target", "language", "languages", "separator", "least", "dictionary")}  # fmt: skip

    def work() -> ProbeResult:
        result = embed(load_words(**loads), k=k, centre=centre, seed=seed)
        if table is not None:
            result.save_words(table)
        if picture is not None:
            _draw(result, picture, map_kind, map_tags)
        return result

    places = None if picture is None else picture.with_suffix(".json")
    run("words", work, METRICS, others=[table, picture, places], **options)


def _check_map(path: Path) -> None:
    """Refuse a map that could not be drawn, before the work.

    Raises:
        UsageError: another suffix than .png or .svg. EnvironmentFault: no matplotlib.
    """
    from importlib.util import find_spec

    from seerctl.errors import EnvironmentFault, UsageError

    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"{path}: a map is .png or .svg", "Write --map words.png")
    if find_spec("matplotlib") is None:
        raise EnvironmentFault("words: matplotlib is not installed", "pip install 'seerctl[report]'")


def _draw(result: WordsResult, path: Path, kind: Any, most: int) -> None:
    """Write the map and its places, and say what it does not show."""
    from seerctl.files import atomic_write, write_json
    from seerctl.probes.words import word_map
    from seerctl.wordmap import Word, draw

    places = word_map(result, kind=kind, most=most)
    languages = sorted({place["language"] for place in places})
    marks = [Word(p["tag"], p["x"], p["y"], p["group"], languages.index(p["language"])) for p in places]
    drawn = draw(marks, shapes=languages, form="svg" if path.suffix == ".svg" else "png")
    with atomic_write(path) as file:
        file.write(drawn.image)
    write_json(path.with_suffix(".json"), {"kind": kind, "tags": places})
    say(f"{path}: {drawn.labelled} of {len(places)} labels found room")
    if drawn.missing:
        some = ", ".join(drawn.missing[:5])
        warn(
            f"{path}: no font here has all letters of {len(drawn.missing)} tags ({some}): add Noto fonts, or draw .svg"
        )
