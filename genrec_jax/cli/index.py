"""`genrec index`: dataset dir -> item IDs and vocabulary."""

import argparse

import rich.console
from rich.table import Table

from genrec_jax.cli import column_flags, numeric_flags
from genrec_jax.cli import console as consoles
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, foreign_ids
from genrec_jax.prompts import templates

HELP = """Gives every item the text that the model reads and writes for it, and makes the vocabulary.

Methods:
  random         numbers from 1001 in a seeded shuffle
  sequential     numbers from 1001 in the order in which training sequences meet the items, so that
                 items taken together get close numbers
  collaborative  a path down a tree of clusters of items that co-occur, <CI3><CI21><CI4>, so that
                 items taken together share their first tokens
  independent    one token of its own for every item: a baseline without structure
  short          I1, I2, ... in a seeded shuffle: the alignment system's, whose prompts show titles
  file           your own, from --ids FILE: semantic ids (RQ-VAE, TIGER), ids that a language model wrote,
                 ids that somebody published

A file of ids is Parquet, CSV, TSV or JSON lines with a row an item: the source's id of the item (column
item, asin, ...), and either the id as it is (column text) or its codes, a list of whole numbers (column
codes) or a column each (code_0, code_1, ...); or it is one JSON object, {"B00X": [12, 7, 255], ...}. The
codes 12, 7, 255 become <a_12><b_7><c_255>, three tokens.
Every item needs an id, and one of its own; the error names line and items. How the ids were made is
taken on trust, and the audit says so.

Ids depend on training interactions alone; items that no training sequence has get ids too. Without
--vocabulary a small vocabulary is trained on the prompts (each id is about two tokens); pass T5's
spiece.model when you start from pretrained T5 weights."""

EPILOG = """
examples:
  genrec index data/toystore --method sequential
  genrec index data/toystore --method random --seed 1 --output data/toystore/index/random-1
  genrec index data/beauty --method collaborative --clusters 20 --max-cluster 500
  genrec index data/beauty --method sequential --vocabulary spiece.model
  genrec index data/toys --method short --vocabulary spiece.model
  genrec index data/beauty data/toys --method sequential --output data/sp2/index
  genrec index data/beauty --method file --ids semantic_ids.parquet --vocabulary spiece.model
  genrec index data/beauty --method file --ids rqvae.csv --id-columns item=asin,codes=c1+c2+c3
  genrec index data/beauty --method file --ids titles.tsv --id-columns item=asin,text=short_name
"""

EXAMPLES_SHOWN = 5
METHODS_OF_FLAG = {
    "seed": ("random", "short"),
    "cold_items": ("sequential",),
    "clusters": ("collaborative",),
    "max_cluster": ("collaborative",),
    "max_user_items": ("collaborative",),
    "ids": (foreign_ids.METHOD,),
    "id_columns": (foreign_ids.METHOD,),
    "add_tokens": (foreign_ids.METHOD,),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec index`."""
    parser.add_argument(
        "datasets", nargs="+", metavar="DATASET_DIR", help="what `prepare` wrote, or its URL"
    )
    parser.add_argument("--method", required=True, choices=(*build.METHODS, foreign_ids.METHOD))
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder or URL to write (default: DATASET_DIR/index/METHOD); needed for several datasets",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing index")
    parser.add_argument(
        "--vocabulary",
        metavar="MODEL",
        help="T5's spiece.model, to add tokens to (default: train a small vocabulary)",
    )
    parser.add_argument(
        "--seed",
        type=numeric_flags.SEED,
        metavar="N",
        help="random, short: of the shuffle (default: 0)",
    )
    parser.add_argument(
        "--templates",
        metavar="FILE",
        help="trained vocabulary: prompts whose words it has, and those of titles where they show {title}"
        " (default: OpenP5's, or with --method short the alignment system's)",
    )
    parser.add_argument(
        "--number-digits-per-token",
        type=numeric_flags.Whole(1, 3),
        metavar="N",
        help="trained vocabulary: digits of a number that share a token, 1 to 3 (default: 2)",
    )
    parser.add_argument(
        "--clusters",
        type=numeric_flags.Whole(2),
        metavar="N",
        help="collaborative: clusters of one split (default: 20, fewer for small catalogues)",
    )
    parser.add_argument(
        "--max-cluster",
        type=numeric_flags.COUNT,
        metavar="K",
        help="collaborative: a cluster of more items is split again (default: 500, or thrice the"
        " average size of a cluster if that is less)",
    )
    parser.add_argument(
        "--max-user-items",
        type=numeric_flags.COUNT,
        metavar="N",
        help="collaborative: users with more different items, such as crawlers, are left out when"
        " co-occurrence is counted (default: none is, and too many pairs are an error)",
    )
    parser.add_argument(
        "--cold-items",
        choices=("shuffled", "held-out-order"),
        help="sequential: how items unseen in training are numbered, after all others (default:"
        " shuffled); held-out-order leaks the held-out items' order and exists to reproduce"
        " public files",
    )
    parser.add_argument(
        "--ids",
        nargs="+",
        metavar="FILE",
        help="file: the ids; of several datasets a file each, in their order",
    )
    parser.add_argument(
        "--id-columns",
        type=column_flags.pairs,
        metavar="A=B,...",
        help="file: columns with other names: item=COLUMN, and text=COLUMN or codes=COLUMN, or"
        " codes=FIRST+SECOND+... where each code has its own",
    )
    parser.add_argument(
        "--add-tokens",
        action=argparse.BooleanOptionalAction,
        help="file: whether each <...> of an id is a token of its own in the vocabulary (default: yes for"
        " codes and for texts of <...> alone, no for other texts)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the index and prints what it holds."""
    settings = {
        name: getattr(arguments, name)
        for name in (*METHODS_OF_FLAG, "number_digits_per_token")
        if getattr(arguments, name) is not None
    }
    for name in settings:
        fitting = METHODS_OF_FLAG.get(name, (arguments.method,))
        if arguments.method not in fitting:
            raise UserError(
                f"--{name.replace('_', '-')} means nothing to --method {arguments.method}; it is for"
                f" --method {' or '.join(fitting)}. Leave one of them out"
            )
    if arguments.vocabulary and (arguments.templates or "number_digits_per_token" in settings):
        raise UserError(
            "--templates and --number-digits-per-token are for a vocabulary that is trained here;"
            " --vocabulary gives one that is finished. Leave one of them out"
        )
    config = build.IndexConfig(method=arguments.method, **settings)
    lines, show_titles = None, False
    if arguments.templates:
        own = templates.load_templates(arguments.templates)
        lines, show_titles = templates.vocabulary_lines(own), templates.show_titles(own)
    with consoles.make(stderr=True).status("making item ids, and once more for the audit"):
        built = build.build_index(
            arguments.datasets,
            config,
            output=arguments.output,
            vocabulary=arguments.vocabulary,
            prompt_lines=lines,
            show_titles=show_titles,
            overwrite=arguments.overwrite,
        )
    console = consoles.make()
    for one in built:
        _show(console, one)


def _show(console: rich.console.Console, one: build.BuiltIndex) -> None:
    ids, tokens, vocabulary = one.item_ids, one.tokens, one.vocabulary
    table = Table(
        "item id", "tokens", "title, or source id", title=f"{ids.dataset_name}: {ids.method} ids"
    )
    step = max(1, ids.num_items // EXAMPLES_SHOWN)
    for item in range(0, ids.num_items, step)[:EXAMPLES_SHOWN]:
        text = ids.texts[item]
        pieces = " ".join(vocabulary.pieces(vocabulary.encode(text)))
        table.add_row(text, pieces, one.titles[item], end_section=False)
    console.print(table)
    console.print(
        f"{ids.num_items:,} items ({one.cold_items:,} unseen in training),"
        f" {tokens.shortest} to {tokens.longest} tokens per id (mean {tokens.mean:.2f}),"
        f" vocabulary of {vocabulary.size:,} tokens ({len(ids.added_tokens):,} added for these ids)",
        soft_wrap=True,
    )
    if one.unknown_in_titles:
        console.print(
            f"warning: {one.unknown_in_titles:.2%} of the titles' tokens are unknown to this vocabulary, so"
            " prompts that show titles (OpenP5's own do not) lose what they say. A vocabulary trained here"
            " has them: leave --vocabulary out, with --method short or --templates that show {title}",
            soft_wrap=True,
        )
    for verdict in one.audit:
        console.print(f"audit: {verdict.status}  {verdict.check}: {verdict.detail}", soft_wrap=True)
    console.print(f"written to {one.path}", soft_wrap=True)
