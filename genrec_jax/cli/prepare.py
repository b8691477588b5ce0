"""`genrec prepare`: raw logs -> dataset dir."""

import argparse
import pathlib

from genrec_jax.data import prepare_run

HELP = (
    "Turns a raw interaction log into a dataset dir: filtered, numbered, sorted, audited for leaks."
)
EPILOG = """\
examples, the first of which runs anywhere:

  genrec prepare toystore --output data/toystore
  genrec prepare movielens --input ml-100k.zip --output data/ml100k --name ML100K
  genrec prepare sequences --input user_sequence.txt --items items.tsv --output data/Beauty
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("reader", choices=prepare_run.READERS, metavar="READER", help="see above")
    parser.add_argument("--input", type=pathlib.Path, metavar="PATH", help="file, folder or .zip")
    parser.add_argument("--output", type=pathlib.Path, metavar="DIR", required=True)
    parser.add_argument("--name", help="what prompts call it (default: the output folder's name)")
    parser.add_argument("--min-user-interactions", type=int, default=5, metavar="N")
    parser.add_argument("--min-item-interactions", type=int, default=5, metavar="N")
    parser.add_argument("--drop-duplicates", action="store_true")
    parser.add_argument("--skip-bad-rows", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    own = parser.add_argument_group("options of single readers")
    own.add_argument("--items", type=pathlib.Path, metavar="FILE", help="sequences, table: titles")
    own.add_argument("--seed", type=int, help="toystore")
    own.add_argument("--num-users", type=int, help="toystore")


def run(arguments: argparse.Namespace) -> None:
    """Prepares one dataset and prints what came out."""
    written = prepare_run.prepare_from(
        arguments.reader,
        arguments.input,
        arguments.output,
        name=arguments.name,
        min_user=arguments.min_user_interactions,
        min_item=arguments.min_item_interactions,
        drop_duplicates=arguments.drop_duplicates,
        skip_bad_rows=arguments.skip_bad_rows,
        overwrite=arguments.overwrite,
        reader_options={
            "items": arguments.items,
            "seed": arguments.seed,
            "num_users": arguments.num_users,
        },
        show_progress=True,
    )
    print(written.manifest["counts"], written.manifest.get("audit"))
