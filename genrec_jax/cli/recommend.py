"""`genrec recommend`: a user or a typed history -> the next items, by title; many users -> a file."""

import argparse
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from genrec_jax.cli import console as consoles
from genrec_jax.cli import numeric_flags, recommend_many, run_flags
from genrec_jax.errors import UserError

if TYPE_CHECKING:  # imported once there is work to do, so that --help is quick
    from genrec_jax.checkpoint.run_dir import RunDir
    from genrec_jax.data.dataset import Dataset
    from genrec_jax.decoding.recommendations import Recommendations
    from genrec_jax.decoding.recommender import Recommender

HELP = """Prints what a trained run recommends next, for a user of its dataset or for any history you type.

A history is given oldest first, each item as the source's id or as its title in quotes; a title that the
run does not know is taken for the nearest it knows, if one is like it, and what is like none is left out;
the answer says so. This needs the run dir alone. A user is looked up in the dataset dir that the run was
trained on, and everything the user had counts as history, the test item too: this recommends what comes
next, it is no evaluation.

--users and --histories make the lists of many at once and write them to --output, a row for each item:
user, rank, source_id, title, score."""

EPILOG = """\
examples:

  genrec recommend runs/quickstart --history "Cosy Dragon Jigsaw Puzzle" "Tiny Pirate Jigsaw Puzzle" -k 5
  genrec recommend runs/quickstart --user shopper_074 --exclude-seen
  genrec recommend runs/quickstart --history T5E03A22 T1A6468F --json
  genrec recommend runs/quickstart --user shopper_074 --only "Cosy Dragon Jigsaw Puzzle" in_stock.txt
  genrec recommend runs/quickstart --users all --exclude-seen --output lists.parquet

The score is the log-probability of the item's id under the model, the probability its exponential. The
same in Python:

  recommender = genrec_jax.load("runs/quickstart")
  recommender.recommend([["Cosy Dragon Jigsaw Puzzle"]], k=5)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec recommend`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="what `genrec train` wrote, or its URL")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--user",
        action=_Once,
        metavar="SOURCE_ID",
        help="a user of the dataset trained on; for several, see --users",
    )
    whose.add_argument(
        "--history",
        nargs="*",
        metavar="ITEM",
        help="source ids or titles, oldest first; none at all asks for a new user without history",
    )
    whose.add_argument(
        "--users",
        metavar="all|FILE",
        help="all users of the dataset trained on, or those of a file with a source id a line",
    )
    whose.add_argument(
        "--histories",
        metavar="FILE",
        help='JSON lines such as {"user": "ann", "history": ["B01", "B02"]}; `user` is only written again',
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="with --users or --histories: the file to write, .parquet or .jsonl",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output")
    parser.add_argument(
        "--unknown",
        choices=("nearest", "skip", "error"),
        default="nearest",
        help="what an item of --history that the run does not know becomes (default: nearest, the nearest"
        " title)",
    )
    parser.add_argument(
        "-k", type=numeric_flags.COUNT, default=10, metavar="K", help="items wanted (10)"
    )
    parser.add_argument(
        "--exclude-seen", action="store_true", help="leave out the items of the history"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ITEM",
        help="recommend these alone: source ids or titles, or files with one a line (./NAME where a file"
        " is called as an item is)",
    )
    parser.add_argument(
        "--exclude", nargs="+", metavar="ITEM", help="leave these out; given as for --only"
    )
    run_flags.add_checkpoint(parser)
    parser.add_argument(
        "--num-beams", type=numeric_flags.COUNT, default=20, metavar="N", help="beams (20)"
    )
    parser.add_argument(
        "--template",
        metavar="ID",
        help="the prompt's template, such as A1 (default: the first that training saw)",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="which dataset, where the run was trained on several"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="with --user and --users: the dataset dir, where it has moved since training",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> None:
    """Recommends, and prints or writes."""
    from genrec_jax.decoding import recommender as recommenders

    many = arguments.users is not None or arguments.histories is not None
    if many:
        inputs = [word for word in (arguments.users, arguments.histories) if word is not None]
        inputs += [*(arguments.only or []), *(arguments.exclude or [])]
        target = recommend_many.check_output(
            arguments.output, inputs, overwrite=arguments.overwrite
        )
        if arguments.json:
            raise UserError("--json prints one list; leave it out, and name the --output .jsonl")
    elif arguments.output is not None:
        raise UserError("--output is for --users and --histories; wanted one of them, or --json")
    recommender = recommenders.load(
        arguments.run_dir,
        checkpoint=arguments.checkpoint,
        dataset=arguments.dataset,
        num_beams=arguments.num_beams,
        max_k=arguments.k,
        unknown=arguments.unknown,
    )
    exclude = _items("--exclude", arguments.exclude, recommender)
    allow = _items("--only", arguments.only, recommender)
    if many:
        if arguments.users is not None:
            dataset = _dataset(recommender.run_dir, recommender.dataset, arguments.data)
            requests = recommend_many.of_users(arguments.users, dataset)
        else:
            file = str(arguments.histories)
            requests = recommend_many.of_histories(file)
            recommend_many.check_known(requests, recommender, file)
        written = recommend_many.write(requests, recommender, target, arguments, exclude, allow)
        print(f"wrote {written.rows:,} rows for {len(requests):,} users to {target}")
        for line in written.told():
            print(line)
        return
    if arguments.user is not None:
        asked = _of_user(recommender.run_dir, recommender.dataset, arguments)
    else:
        asked = recommend_many.Request("", None, arguments.history)
    found = recommender.recommend(
        [asked.history],
        k=arguments.k,
        users=[asked.user],
        exclude_seen=arguments.exclude_seen,
        template=arguments.template,
        exclude=None if exclude is None else [exclude],
        allow=None if allow is None else [allow],
    )[0]
    if found.skipped and not found.matches:
        # An error, since nothing that was typed is known.
        recommender.catalogue.find(found.skipped[0], nearest=arguments.unknown == "nearest")
    if arguments.json:
        print(json.dumps(_as_json(found, recommender), indent=2, ensure_ascii=False))
    else:
        _print_tables(found, recommender, arguments.user)


class _Once(argparse.Action):
    """A flag that may be given once; the last of several would take the place of the others."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice; for several users, see --users FILE")
        setattr(namespace, self.dest, values)


def _items(flag: str, given: list[str] | None, recommender: "Recommender") -> list[int] | None:
    """The item numbers that a flag names, itself or in files; what the catalogue knows is no file."""
    if given is None:
        return None
    entries: list[str] = []
    for entry in given:
        from_file = not _is_known(entry, recommender) and _is_file(entry)
        entries += [line for _, line in recommend_many.lines(entry)] if from_file else [entry]
    if flag == "--only" and not entries:
        raise UserError(
            f"--only: no item is named in {', '.join(given)}, so nothing could be recommended; wanted"
            " source ids or titles, one a line"
        )
    try:
        return recommender.catalogue.items_of(entries)
    except UserError as error:
        raise UserError(f"{flag}: {error} (or files with one a line)") from error


def _is_known(entry: str, recommender: "Recommender") -> bool:
    try:
        recommender.catalogue.find(entry, nearest=False)
    except UserError:
        return False
    return True


def _is_file(entry: str) -> bool:
    try:
        return pathlib.Path(entry).is_file()
    except OSError:  # a title that is too long for a file's name
        return False


def _dataset(run_dir: "RunDir", name: str, moved: str | None) -> "Dataset":
    """The dataset that the run was trained on."""
    from genrec_jax.data import dataset as datasets

    entry = run_dir.dataset(name)
    path = moved or entry.path
    try:
        dataset = datasets.load(path)
    except UserError as error:
        raise UserError(
            f"{error}. Users and their histories are there; if the dataset dir has moved, say where with"
            " --data DIR, or give histories with --history or --histories"
        ) from error
    if dataset.fingerprint != entry.fingerprint:
        raise UserError(
            "is not the data that this run was trained on, so its users have other numbers. Name the"
            " right folder with --data DIR, or give histories with --history or --histories",
            file=str(path),
        )
    return dataset


def _of_user(run_dir: "RunDir", name: str, arguments: argparse.Namespace) -> recommend_many.Request:
    dataset = _dataset(run_dir, name, arguments.data)
    if arguments.user not in dataset.user_source_ids:
        some = ", ".join(dataset.user_source_ids[:3])
        raise UserError(
            f"has no user {arguments.user!r}; wanted a source id such as {some}. For a new user, type"
            " the history with --history",
            file=str(arguments.data or run_dir.dataset(name).path),
        )
    (request,) = recommend_many.of_names([arguments.user], dataset)
    return request


def _as_json(found: "Recommendations", recommender: "Recommender") -> dict[str, Any]:
    return {
        "run_dir": recommender.run_dir.location,
        "step": recommender.step,
        "dataset": recommender.dataset,
        "template": found.template,
        "history": [dataclasses.asdict(match) for match in found.matches],
        "skipped": list(found.skipped),
        "recommendations": [
            {"rank": rank, **dataclasses.asdict(one), "probability": one.probability}
            for rank, one in enumerate(found, start=1)
        ],
    }


def _print_tables(found: "Recommendations", recommender: "Recommender", user: str | None) -> None:
    import rich.table

    console = consoles.make(width_elsewhere=120)
    for match in found.matches:
        if not match.exact:
            name = _name(match.title, match.source_id)
            console.print(
                f"{match.query!r} is not in the catalogue; taken for {name} (similarity"
                f" {match.similarity:.2f})",
                style="yellow",
            )
        elif (
            recommender.catalogue.number_of(match.query) is None
            and len(same := recommender.catalogue.titled(match.query)) > 1
        ):
            console.print(
                f"{len(same)} items are titled {match.query!r}; taken for {match.source_id}. Type the"
                " source id of the one you mean",
                style="yellow",
            )
    for entry in found.skipped:
        console.print(
            f"{entry!r} is not in the catalogue, nor like a title of it; left out",
            style="yellow",
        )
    if found.matches and found.template in _without_history(recommender):
        console.print(
            f"template {found.template} shows no history; it asks by user alone", style="yellow"
        )
    if not len(found):
        console.print(
            "nothing is left to recommend: --exclude-seen, --exclude and --only leave no item"
        )
    shown = found.matches[-recommender.max_history :]
    if shown:
        whose = "history" if user is None else f"history of {user}"
        table = rich.table.Table(
            "source id",
            "title",
            title=whose,
            title_justify="left",
        )
        for match in shown:
            table.add_row(match.source_id, match.title or "")
        console.print(table)
    table = rich.table.Table(
        title=f"next, says step {recommender.step} (template {found.template})",
        title_justify="left",
    )
    for name in ("rank", "source id", "title", "score", "probability"):
        table.add_column(name, justify="left" if name in ("source id", "title") else "right")
    for rank, one in enumerate(found, start=1):
        table.add_row(
            str(rank),
            one.source_id,
            one.title or "",
            f"{one.score:.3f}",
            f"{one.probability:.3g}",
        )
    console.print(table)


def _without_history(recommender: "Recommender") -> list[str]:
    return [one.id for one in recommender.run_dir.templates if "{history}" not in one.input]


def _name(title: str | None, source_id: str) -> str:
    return source_id if title is None else f"{source_id} ({title})"
