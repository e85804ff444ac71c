"""`seerctl recipes ls|show|validate`."""

from __future__ import annotations

from typing import Any

import click

from seerctl.console import emit, say
from seerctl.errors import UsageError
from seerctl.options import SeerCommand, output_format, verbosity_options

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=CONTEXT)
def recipes() -> None:
    """List, show and validate training recipes.

    Found by path, then in $SEERCTL_RECIPES, then among those that come with seerctl.
    """


recipes.params.extend(verbosity_options())


def _row(name: str) -> dict[str, Any]:
    from seerctl.recipe import load_recipe

    try:
        recipe = load_recipe(name)
    except UsageError as error:  # one of the user's own: name the fault, list the others
        return {"name": name, "size": None, "batch": None, "description": f"invalid: {error.message}"}
    return {"name": name, "size": recipe.model.size, "batch": recipe.data.batch, "description": recipe.description}


@recipes.command(cls=SeerCommand, examples=("seerctl recipes ls", "seerctl recipes ls --output-format json"))
@output_format
def ls(output_format: str) -> None:
    """List the recipes by name, with what each one trains."""
    from seerctl.recipe import recipe_names

    rows = [_row(name) for name in recipe_names()]
    width = max((len(row["name"]) for row in rows), default=0)
    emit({"recipes": rows}, output_format, "\n".join(f"{row['name']:<{width}}  {row['description']}" for row in rows))


@recipes.command(
    cls=SeerCommand, examples=("seerctl recipes show 10b", "seerctl recipes show nano --set data.batch=64")
)
@click.argument("recipe", metavar="NAME|FILE")
@click.option(
    "--set", multiple=True, metavar="KEY=VALUE", help="Override one value, as in data.batch=512; may be repeated."
)
@output_format
def show(recipe: str, set: tuple[str, ...], output_format: str) -> None:
    """Print a recipe as TOML, complete and resolved."""
    from seerctl.recipe import dump, load_recipe, resolved

    loaded = load_recipe(recipe, set)
    emit(resolved(loaded), output_format, dump(loaded).rstrip("\n"))


@recipes.command(
    cls=SeerCommand, examples=("seerctl recipes validate 256gf", "seerctl recipes validate my-recipe.toml")
)
@click.argument("recipe", metavar="NAME|FILE", nargs=-1, required=True)
def validate(recipe: tuple[str, ...]) -> None:
    """Check recipes; exit 2 names the first fault."""
    from seerctl.recipe import find, load_recipe

    for name in recipe:
        load_recipe(name)
        say(f"{find(name)}: a valid recipe")
