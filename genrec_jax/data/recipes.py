"""Datasets as papers publish them: `genrec prepare recipe NAME` checks that their counts come out.

The recipes are data, in `recipes.toml` beside this file.
"""

import dataclasses
import functools
import pathlib
import tomllib
from typing import Any

from genrec_jax.data import artefacts, dataset, prepare, prepare_run
from genrec_jax.data.readers import inputs, sequences
from genrec_jax.errors import UserError

FILE = pathlib.Path(__file__).with_name("recipes.toml")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One published dataset.

    Attributes:
        recipe: what the user calls it.
        name: what prompts call it.
        systems: the papers that use it.
        readers: the readers that can make it, the original source's first.
        counts: the published `users`, `items`, `interactions`; one may be absent.
        options: the reader's own keyword arguments, by reader.
    """

    recipe: str
    name: str
    systems: tuple[str, ...]
    readers: tuple[str, ...]
    counts: dict[str, int]
    options: dict[str, dict[str, Any]]


@functools.cache
def load_recipes() -> dict[str, Recipe]:
    """Every recipe, by name."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        recipe: Recipe(
            recipe=recipe,
            name=entry.get("name", recipe),
            systems=tuple(entry["systems"]),
            readers=tuple(entry["readers"]),
            counts=entry["counts"],
            options=entry.get("options", {}),
        )
        for recipe, entry in content.items()
    }


def find(recipe: str | None) -> Recipe:
    """The recipe of that name, in any case, `ML-1M` for `ML1M`.

    Raises:
        UserError: there is none; it lists those there are.
    """
    known = {name.lower(): entry for name, entry in load_recipes().items()}
    found = known.get((recipe or "").lower().replace("-", ""))
    if found is None:
        got = "`recipe` needs a name" if recipe is None else f"there is no recipe {recipe!r}"
        raise UserError(f"{got}; wanted one of {', '.join(load_recipes())}")
    return found


def prepare_recipe(
    recipe: str,
    source: artefacts.PathLike,
    output: artefacts.PathLike,
    *,
    split: prepare.SplitBy = prepare.LEAVE_ONE_OUT,
    user_order: prepare.UserOrder = "shuffled",
    reader_options: dict[str, Any] | None = None,
    skip_bad_rows: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dataset.Dataset:
    """Prepares a published dataset with 5-core, or fails if its counts are not the published ones.

    Args:
        recipe: its name in `recipes.toml`, in any case.
        source: the original log, or its sequences (`user item item ...` in a .txt file).
        output: the dataset dir to write.
        split: what is held out for validation and test.
        user_order: how users are numbered, see `prepare.prepare`.
        reader_options: the reader's own keyword arguments (`items`, `metadata`).
        skip_bad_rows: leave bad rows out and count them.
        overwrite: replace an existing dataset.
        show_progress: on stderr.

    Raises:
        UserError: no such recipe, or other counts came out (both are shown; nothing is written).
    """
    found = find(recipe)
    reader = _choose_reader(found, source)
    return prepare_run.prepare_from(
        reader,
        source,
        output,
        name=found.name,
        filters=prepare.FIVE_CORE,
        split=split,
        user_order=user_order,
        skip_bad_rows=skip_bad_rows,
        expected_counts=found.counts,
        overwrite=overwrite,
        reader_options={**found.options.get(reader, {}), **(reader_options or {})},
        manifest={"recipe": found.recipe, "published_counts": found.counts},
        show_progress=show_progress,
    )


def _choose_reader(recipe: Recipe, source: artefacts.PathLike) -> str:
    """`sequences` for sequences under a usual name, or a text where the original's files are not there."""
    original = next(reader for reader in recipe.readers if reader != "sequences")
    if "sequences" not in recipe.readers:
        return original
    found = inputs.Inputs(source, reader=recipe.readers[0])

    def holds(*patterns: str) -> bool:
        return any(found.matching(pattern) for pattern in patterns)

    if holds("*.txt" if found.is_one_file else "*sequen*.txt"):
        return "sequences"
    if holds(*prepare_run.load_reader(original).FILE_NAMES):
        return original
    return "sequences" if holds(*sequences.FILE_NAMES) else original
