"""`genrec prepare`: raw logs -> dataset dir."""

import argparse
import datetime
import math
import pathlib
import typing
from typing import Any

from rich import box, table, text

from genrec_jax import storage
from genrec_jax.cli import column_flags, console, numeric_flags
from genrec_jax.data import (
    audit,
    dataset,
    download,
    item_matching,
    prepare,
    prepare_run,
    recipes,
    splits,
)
from genrec_jax.data.readers import staging
from genrec_jax.errors import UserError

HELP = """\
Turns a raw interaction log into a dataset dir: filtered (k-core), numbered, sorted by user and time,
and audited for leaks. The first argument says what the log is:

  amazon          Amazon reviews of 2014, 2018 or 2023 and their metadata, plain, .gz or .zip
  movielens       MovieLens 100K, 1M, 10M, 20M, 25M or 32M, the folder or the .zip
  movietweetings  MovieTweetings: ratings.dat and movies.dat
  lastfm          LastFM (hetrec2011): artists in the order in which a user first tagged them
  yelp            Yelp's review and business JSON
  taobao          Taobao's UserBehavior.csv, purchases only
  sequences       `user item item ...` a line, in time order; titles from --items
  table           any CSV, TSV, Parquet or JSON lines; --columns says which column is what
  toystore        a generated shop whose best possible hit ratio is known; no --input
  tfds            a TensorFlow Datasets builder, named by --input
  recipe NAME     a published dataset: its counts are compared with the paper's, and other counts are
                  an error"""

EPILOG = """\
examples, the first of which runs anywhere:

  genrec prepare toystore --output data/toystore
  genrec prepare movielens --download ml-100k --name ML100K --output data/ml100k
  genrec prepare movielens --input ml-1m.zip --name ML1M --output data/ml1m
  genrec prepare amazon --input reviews_Beauty_5.json.gz --name Beauty --output data/beauty
  genrec prepare sequences --input user_sequence.txt --items items.tsv --output data/Beauty
  genrec prepare table --input clicks.csv --columns user=visitor,item=sku,timestamp=when \\
      --time-format '%Y-%m-%d %H:%M:%S' --output data/clicks
  genrec prepare recipe Beauty --input reviews_Beauty_5.json.gz --output data/beauty
  genrec prepare movielens --input ml-1m.zip --name ML1M --protocol temporal --output data/ml1m-by-date

what to know:

  A table of items (--items) has a header: item (or asin, item_id), title, brand, categories, price,
  description; HTML entities (&amp;) are turned into characters.
  Held out is each user's last item for the test and the one before it for validation, as in the papers.
  With --protocol temporal training ends on one date for everybody, and each user's first item after
  the dates is held out. Everything later (index, train, evaluate) keeps to what is said here.
  Prompts name users by number. Numbers are shuffled, so that they tell nothing; --user-order file has
  them by first appearance, as OpenP5's public files do.
  Without times, the order of the log is taken on trust, and the audit says so.
  Tied times keep file order (--tie-seed: a random one); how many there are is printed and stored.
  Exact duplicates are kept and counted, because published counts include them; --drop-duplicates.
  A bad row is an error that names file and line; --skip-bad-rows leaves it out and counts it.
  Large logs are staged in the temporary folder (TMPDIR), about half their unpacked size.
  The output holds interactions.parquet, items.parquet, users.parquet and dataset.json, or nothing.

next: genrec index DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument(
        "reader",
        choices=(*prepare_run.READERS, "recipe"),
        metavar="READER",
        help="one of the above",
    )
    parser.add_argument(
        "recipe_name",
        nargs="?",
        metavar="NAME",
        help=f"for `recipe`: {', '.join(recipes.load_recipes())}",
    )
    parser.add_argument("--input", metavar="PATH", help="the log: a file, a folder or a .zip")
    parser.add_argument(
        "--output",
        type=storage.argument,
        metavar="DIR",
        required=True,
        help="the dataset dir to write: a path or a URL (gs://BUCKET/DIR)",
    )
    parser.add_argument(
        "--name",
        help="what prompts call the dataset, such as Beauty (default: the output folder's name)",
    )
    parser.add_argument(
        "--download",
        metavar="WHAT",
        help=f"fetch the log first: {', '.join(download.DOWNLOADS)}; for amazon 2014/CATEGORY or"
        " 2023/CATEGORY. Resumable, checked, kept in --download-dir",
    )
    parser.add_argument(
        "--download-dir", type=pathlib.Path, metavar="DIR", help="default: ~/.cache/genrec_jax"
    )
    filters = parser.add_argument_group("filters")
    filters.add_argument(
        "--min-user-interactions",
        type=numeric_flags.COUNT,
        metavar="N",
        help="k-core, users (default: 5)",
    )
    filters.add_argument(
        "--min-item-interactions",
        type=numeric_flags.COUNT,
        metavar="N",
        help="k-core, items (default: 5)",
    )
    filters.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="drop rows equal to an earlier one in user, item, time and rating; in a log without times, an"
        " item that a user takes twice running",
    )
    filters.add_argument(
        "--skip-bad-rows", action="store_true", help="leave bad rows out, and count them"
    )
    filters.add_argument(
        "--tie-seed",
        type=numeric_flags.SEED,
        metavar="N",
        help="order tied times at random with this seed (default: file order); needs data with times",
    )
    filters.add_argument(
        "--user-order",
        choices=typing.get_args(prepare.UserOrder),
        default="shuffled",
        help="how users are numbered in prompts: shuffled (default), or file: by first appearance, as"
        " OpenP5's public files are, which tells held-out items where a log is sorted by item",
    )
    held_out = parser.add_argument_group("what is held out")
    held_out.add_argument(
        "--protocol",
        choices=[name.replace("_", "-") for name in splits.PROTOCOLS],
        default="leave-one-out",
        help="leave-one-out (default): each user's last two items; temporal: what comes after two dates",
    )
    held_out.add_argument(
        "--validation-from",
        type=_moment,
        metavar="DATE",
        help="temporal: where training ends, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss, UTC unless it says"
        " otherwise. Both dates or neither (default: after 80%% of the interactions)",
    )
    held_out.add_argument(
        "--test-from",
        type=_moment,
        metavar="DATE",
        help="temporal: where the test begins (default: after 90%% of the interactions)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset, and its indexes"
    )
    own = parser.add_argument_group("options of single readers")
    own.add_argument(
        "--items", type=pathlib.Path, metavar="FILE", help="sequences, table: titles and the like"
    )
    own.add_argument(
        "--item-columns",
        type=column_flags.pairs,
        metavar="A=B,...",
        help="sequences, table: columns of --items with other names, title=product_name",
    )
    own.add_argument(
        "--metadata", type=pathlib.Path, metavar="FILE", help="amazon: if not beside the reviews"
    )
    own.add_argument("--from-date", metavar="YYYY-MM-DD", help="yelp: first day counted")
    own.add_argument("--to-date", metavar="YYYY-MM-DD", help="yelp: last day counted")
    own.add_argument(
        "--columns",
        metavar="...",
        help="table, tfds: user=COLUMN,item=COLUMN,timestamp=COLUMN,rating=COLUMN; with --no-header"
        " what each column is, in order: user,item,_,timestamp",
    )
    own.add_argument(
        "--null-values",
        metavar="WORDS",
        help="table: words that stand for no user, item or title, with commas between; '' for none, where"
        f" NA is an item (default: {','.join(staging.NULL_VALUES)})",
    )
    own.add_argument("--no-header", dest="header", action="store_false", default=None, help="table")
    own.add_argument(
        "--separator", metavar="S", help="table: between columns, such as ';' or '\\t'"
    )
    own.add_argument(
        "--quoted",
        action=argparse.BooleanOptionalAction,
        help="table: whether quotes may enclose a field (default: yes, but not between tabs)",
    )
    own.add_argument(
        "--time-unit", metavar="UNIT", help="table: seconds, milliseconds, microseconds"
    )
    own.add_argument("--time-format", metavar="FORMAT", help="table: where times are dates")
    own.add_argument(
        "--rating-range",
        type=numeric_flags.Finite(),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="table: what is possible",
    )
    own.add_argument("--seed", type=numeric_flags.SEED, metavar="N", help="toystore")
    own.add_argument("--num-users", type=numeric_flags.COUNT, metavar="N", help="toystore")
    own.add_argument("--split", metavar="NAME", help="tfds: default train")
    own.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="tfds: where its data lie"
    )


OWN_OPTIONS = (
    "items",
    "item_columns",
    "metadata",
    "from_date",
    "to_date",
    "columns",
    "null_values",
    "header",
    "separator",
    "quoted",
    "time_unit",
    "time_format",
    "rating_range",
    "seed",
    "num_users",
    "split",
    "data_dir",
)


def run(arguments: argparse.Namespace) -> None:
    """Prepares one dataset and prints what came out."""
    source = arguments.input
    if arguments.download is not None:
        source = _download(arguments)
    own = {name: getattr(arguments, name) for name in OWN_OPTIONS}
    if own["rating_range"] is not None:
        low, high = own["rating_range"] = tuple(own["rating_range"])
        if low >= high:
            raise UserError(f"--rating-range is {low:g} {high:g}; wanted the lower bound first")
    common: dict[str, Any] = {
        "skip_bad_rows": arguments.skip_bad_rows,
        "overwrite": arguments.overwrite,
        "user_order": arguments.user_order,
        "split": prepare.SplitBy(
            arguments.protocol.replace("-", "_"), arguments.validation_from, arguments.test_from
        ),
        "reader_options": own,
        "show_progress": True,
    }
    minima = (arguments.min_user_interactions, arguments.min_item_interactions)
    if arguments.reader == "recipe":
        written = _run_recipe(arguments, source, minima, common)
    else:
        if arguments.recipe_name is not None:
            raise UserError(
                f"{arguments.recipe_name!r} follows the reader `{arguments.reader}`; only `recipe` takes"
                " a name there. Pass the log as --input and the dataset's name as --name"
            )
        written = prepare_run.prepare_from(
            arguments.reader,
            source,
            arguments.output,
            name=arguments.name,
            filters=prepare.Filters(
                min_user=prepare.FIVE_CORE.min_user if minima[0] is None else minima[0],
                min_item=prepare.FIVE_CORE.min_item if minima[1] is None else minima[1],
                drop_duplicates=arguments.drop_duplicates,
                tie_seed=arguments.tie_seed,
            ),
            **common,
        )
    show(written)


def show(written: dataset.Dataset) -> None:
    """Prints counts, duplicates, ties, rejected rows and the audit."""
    manifest = written.manifest
    rows, ties = manifest["rows"], manifest["ties"]
    place = written.url or written.path
    facts = table.Table(title=f"{written.name}: {place}", box=box.SIMPLE, show_header=False)
    for key, value in manifest["counts"].items():
        facts.add_row(key, f"{value:,}")
    titled = sum(title is not None for title in written.item_titles)
    facts.add_row("items with a title", f"{titled:,}")
    if (matched := manifest.get("item_table")) is not None:
        facts.add_row(
            "found in the table of items", item_matching.summary(matched, written.num_items)
        )
    if rows["read"] is not None:
        facts.add_row("rows read", f"{rows['read']:,}")
    facts.add_row("dropped by k-core", f"{rows['dropped_by_k_core']:,}")
    facts.add_row("rejected rows", f"{sum(rows['rejected'].values()):,}")
    for reason, count in rows["rejected"].items():
        facts.add_row(f"  {reason}", f"{count:,}")
    duplicates = manifest["duplicates"]
    facts.add_row(
        "exact duplicates",
        f"{duplicates['exact_kept']:,} kept, {duplicates['exact_dropped']:,} dropped",
    )
    if ties is None:
        facts.add_row("order", "taken on trust: no timestamps")
    else:
        facts.add_row("rows tied in time", f"{ties['rows']:,} ({ties['rows_share']:.1%})")
        tied = audit.tied_share(written, splits.of(written), "test")
        facts.add_row("test targets that tie", f"{tied:.1%}")
    facts.add_row("held out", splits.describe(manifest.get("split", {})))
    for split, count in splits.count_targets(written, splits.of(written)).items():
        facts.add_row(
            f"  {split}",
            f"{count.users:,} users; training never saw {count.new_users:,} of them, nor"
            f" {count.cold:,} of their targets",
        )
    if "published_counts" in manifest:
        facts.add_row("published counts", "as expected")
    checks = table.Table(title="Leakage audit", box=box.SIMPLE)
    for column in ("status", "check", "detail"):
        checks.add_column(column)
    colours = {"pass": "green", "warn": "yellow", "fail": "red"}
    for result in manifest["audit"]:
        status = text.Text(result["status"], style=colours.get(result["status"], "white"))
        checks.add_row(status, result["check"], result["detail"])
    out = console.make()
    out.print(facts)
    out.print(checks)
    out.print(f"next: genrec index {place}", soft_wrap=True)


def _run_recipe(
    arguments: argparse.Namespace,
    source: Any,
    minima: tuple[int | None, int | None],
    common: dict[str, Any],
) -> dataset.Dataset:
    found = recipes.find(arguments.recipe_name)
    fixed = (*minima, arguments.name, arguments.tie_seed, arguments.drop_duplicates or None)
    if any(value is not None for value in fixed):
        raise UserError(
            "a recipe fixes the name and the filters; leave --name, --min-user-interactions,"
            " --min-item-interactions, --drop-duplicates and --tie-seed out, or use its reader instead"
        )
    if source is None:
        raise UserError("a recipe needs the original data; pass --input PATH")
    return recipes.prepare_recipe(found.recipe, source, arguments.output, **common)


def _download(arguments: argparse.Namespace) -> pathlib.Path:
    if arguments.input is not None:
        raise UserError("--input and --download exclude each other; pass one of them")
    reader = arguments.reader
    if reader == "recipe":
        readers = recipes.find(arguments.recipe_name).readers
        entry = download.DOWNLOADS.get(arguments.download)
        reader = entry[0] if entry and entry[0] in readers else readers[0]
    return prepare_run.download_for(reader, arguments.download, folder=arguments.download_dir)


def _moment(value: str) -> int:
    """Seconds since 1970 of an ISO date or time, UTC unless it names a zone."""
    try:
        if "-" not in value:  # 20140101 could be seconds
            raise ValueError
        moment = datetime.datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return math.ceil(moment.astimezone(datetime.UTC).timestamp())
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"{value!r}: wanted a date such as 2014-07-23 or 2014-07-23T12:30:00"
        ) from error
