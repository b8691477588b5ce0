"""The run dir: everything that evaluating, recommending and exporting need, in one folder, without gin.

    run.json            what was trained: network, mixture, datasets, templates, settings, versions;
                        of the last start, with what changed since the first (`restarts`)
    config.gin          the operative configuration, where the run was started by gin
    vocabulary.model    the vocabulary
    item_ids.parquet    item ids with titles, and index.json (several datasets: <dataset>/...)
    trie.npz            the catalogue's trie (several datasets: <dataset>/trie.npz)
    checkpoints/        see `checkpoint.store`
    metrics.jsonl, tensorboard/, eval/<split>-<step>/ (a sample of users: <split>-<step>-sample<N>/)

`run.json` is written last: a folder without it is not a run dir. A run dir may lie at a URL: it is then
worked on in a folder of this machine (`mirror`), to which checkpoints and evaluations come when they
are asked for.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genrec_jax import storage
from genrec_jax.checkpoint import manifest as checkpoint_manifest
from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.mirror import Mirror
from genrec_jax.model.config import T5Config
from genrec_jax.prompts import templates as templates_lib

FORMAT_VERSION = 1
MANIFEST = artefacts.RUN_MANIFEST
CONFIG = "config.gin"
CHECKPOINTS, EVALUATIONS, EVENTS_FOLDER = "checkpoints", "eval", "tensorboard"
VOCABULARY = item_ids_lib.VOCABULARY
TRIE = "trie.npz"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece")


@dataclasses.dataclass(frozen=True)
class RunDataset:
    """One dataset that a run was trained on.

    Attributes:
        name: as prompts name it.
        path: the dataset dir at training time, absolute, or its URL.
        fingerprint: of the data; evaluation refuses any other.
        folder: where this dataset's item ids and trie lie in the run dir.
        num_users: users that it has.
    """

    name: str
    path: artefacts.PathLike
    fingerprint: str
    folder: pathlib.Path
    num_users: int

    @property
    def trie(self) -> pathlib.Path:
        """The catalogue's `trie.npz`."""
        return self.folder / TRIE


@dataclasses.dataclass(frozen=True)
class RunDir:
    """An opened run dir.

    Attributes:
        path: the folder; one of this machine, also where the run dir is at a URL.
        manifest: the parsed `run.json`.
        mirror: of the run dir's URL and `path`; None where it has none.
    """

    path: pathlib.Path
    manifest: dict[str, Any]
    mirror: Mirror | None = None

    @classmethod
    def exists(cls, path: artefacts.PathLike) -> bool:
        """Whether there is a complete run dir at a path or URL."""
        return storage.exists(storage.join(path, MANIFEST))

    @classmethod
    def load(cls, path: artefacts.PathLike) -> "RunDir":
        """Opens a run dir.

        Raises:
            UserError: there is none, or one of another format version.
        """
        remedy = "Train with `genrec train`, or name the folder that was its MODEL_DIR"
        if not cls.exists(path):
            there = storage.is_remote(path) or pathlib.Path(path).is_dir()
            found = f"holds no {MANIFEST}, so it is no run dir" if there else "is not there"
            raise UserError(
                f"{found}; wanted a folder that `genrec train` wrote, its MODEL_DIR. Check the path, or"
                " train first",
                file=str(path),
            )
        folder = storage.local_copy(path, is_small)
        mirror = Mirror(os.fspath(path), folder) if storage.is_remote(path) else None
        file = storage.join(path, MANIFEST)
        manifest = artefacts.read_json(
            folder / MANIFEST, wanted="what was trained", remedy=remedy, shown=file
        )
        artefacts.check_version(
            manifest.get("format_version"), FORMAT_VERSION, path=file, remedy=remedy
        )
        return cls(folder, manifest, mirror)

    @classmethod
    def create(
        cls,
        path: artefacts.PathLike,
        *,
        model_config: T5Config,
        mixture: Mapping[str, Any],
        datasets: Sequence[Dataset],
        index_dirs: Sequence[artefacts.PathLike],
        vocabulary: Vocabulary,
        templates_text: str,
        write_trie: Callable[[int, pathlib.Path], None],
        selection: Mapping[str, str],
        settings: Mapping[str, Any],
        operative_config: str | None = None,
    ) -> "RunDir":
        """Makes a run dir, `run.json` last; an interrupted one is simply made again.

        Args:
            path: the folder; it may exist, with other files in it.
            model_config: the network.
            mixture: what it is trained on: name, history, lengths, seed.
            datasets: in the mixture's order.
            index_dirs: for each dataset the folder with its item ids.
            vocabulary: the one that all of them share.
            templates_text: the text of the templates file.
            write_trie: writes the trie of dataset number i to a path, atomically.
            selection: `metric` and `mode` by which the best checkpoint is chosen.
            settings: every setting of the run, as plain JSON; a resumed run must have the same.
            operative_config: what gin configured, for `config.gin`.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = pathlib.Path(path).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary.save(folder / VOCABULARY)
        entries = []
        for number, (dataset, index_dir) in enumerate(zip(datasets, index_dirs, strict=True)):
            prefix = "" if len(datasets) == 1 else f"{dataset.name}/"
            for file in (item_ids_lib.TABLE, item_ids_lib.MANIFEST):
                with artefacts.atomic_file(folder / f"{prefix}{file}") as temporary:
                    shutil.copyfile(pathlib.Path(index_dir) / file, temporary)
            write_trie(number, folder / f"{prefix}{TRIE}")
            entries.append(
                {
                    "name": dataset.name,
                    "path": dataset.location,
                    "fingerprint": dataset.fingerprint,
                    "num_users": dataset.num_users,
                    "item_ids": f"{prefix}{item_ids_lib.TABLE}",
                    "trie": f"{prefix}{TRIE}",
                }
            )
        if operative_config is not None:
            with artefacts.atomic_file(folder / CONFIG) as temporary:
                temporary.write_text(operative_config, encoding="utf-8")
        manifest = {
            "format_version": FORMAT_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **code_here(),
            "model": dataclasses.asdict(model_config),
            "mixture": dict(mixture),
            "datasets": entries,
            "vocabulary": {
                "file": VOCABULARY,
                "sha256": vocabulary.sha256,
                "size": vocabulary.size,
            },
            "selection": dict(selection),
            "settings": dict(settings),
            "templates": templates_text,
        }
        artefacts.write_json(folder / MANIFEST, manifest)
        return cls.load(folder)

    @property
    def location(self) -> str:
        """The run dir's URL, or else its path."""
        return str(self.path) if self.mirror is None else self.mirror.url

    def bring(self, *names: str) -> None:
        """If the run dir is at a URL, downloads files or whole folders of it in their current state.

        Raises:
            UserError: the store cannot be reached.
        """
        if self.mirror is not None:
            self.mirror.bring(*names)

    def publish(self, *names: str) -> None:
        """If the run dir is at a URL, uploads files or whole folders of it.

        Raises:
            UserError: the store cannot be written.
        """
        if self.mirror is not None:
            self.mirror.publish(*names)

    def output_path(self, name: str) -> artefacts.PathLike:
        """The path or URL to write a file or folder of the run dir to."""
        return self.path / name if self.mirror is None else storage.join(self.mirror.url, name)

    @functools.cached_property
    def model_config(self) -> T5Config:
        """The network."""
        return T5Config.from_json(self.manifest["model"])

    @property
    def mixture(self) -> dict[str, Any]:
        """The training mixture: name, history, lengths, seed."""
        return self.manifest["mixture"]

    @functools.cached_property
    def datasets(self) -> tuple[RunDataset, ...]:
        """The datasets, in the mixture's order."""
        return tuple(
            RunDataset(
                name=entry["name"],
                path=storage.join(entry["path"]),
                fingerprint=entry["fingerprint"],
                folder=(self.path / entry["item_ids"]).parent,
                num_users=entry["num_users"],
            )
            for entry in self.manifest["datasets"]
        )

    def dataset(self, name: str | None = None) -> RunDataset:
        """The dataset of that name; without a name, the only one.

        Raises:
            UserError: no such dataset, or several and no name.
        """
        names = [dataset.name for dataset in self.datasets]
        if name is None and len(names) == 1:
            return self.datasets[0]
        if name not in names:
            raise UserError(
                f"was trained on {', '.join(names)}; got {name!r}, wanted one of them",
                file=self.location,
            )
        return self.datasets[names.index(name)]

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, its checksum checked."""
        vocabulary = Vocabulary(self.path / VOCABULARY)
        if vocabulary.sha256 != self.manifest["vocabulary"]["sha256"]:
            raise UserError(
                "is not the vocabulary that the run was trained with: its checksum differs. Copy it"
                " from the index dir again",
                file=str(self.path / VOCABULARY),
            )
        return vocabulary

    def item_ids(self, name: str | None = None) -> item_ids_lib.ItemIds:
        """The item ids of a dataset, as trained."""
        return item_ids_lib.load(self.dataset(name).folder)

    @functools.cached_property
    def templates(self) -> tuple[templates_lib.Template, ...]:
        """The prompt templates, as trained; the seen ones were trained on."""
        return templates_lib.parse_templates(
            self.manifest["templates"], file=str(self.path / MANIFEST)
        )

    @property
    def selection(self) -> dict[str, str]:
        """`metric` and `mode` by which the best checkpoint is chosen."""
        return self.manifest["selection"]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the run."""
        return self.manifest["settings"]

    @property
    def checkpoint_dir(self) -> pathlib.Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    @property
    def eval_dir(self) -> pathlib.Path:
        """Where evaluations go, one folder for each split and step."""
        return self.path / EVALUATIONS

    @property
    def events_dir(self) -> pathlib.Path:
        """Where TensorBoard's events and traces go."""
        return self.path / EVENTS_FOLDER

    def check_settings(
        self,
        settings: Mapping[str, Any],
        *,
        free: Sequence[str] = (),
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        """Checks that a resumed run keeps the settings that it was started with.

        Args:
            settings: of the run that wants to resume here.
            free: dotted names that may differ, with everything below them.
            reasons: dotted name -> why it may not, where its name does not say what the user changed.

        Raises:
            UserError: some differ; it lists each with both values.
        """
        differences = compare_settings(self.settings, settings)
        changed = [
            (name, old, new)
            for name, old, new in differences
            if not any(name == f or name.startswith(f"{f}.") for f in free)
        ]
        if changed:
            lines = ""
            for name, old, new in changed:
                reason = (reasons or {}).get(name)
                lines += f"\n  {name}: {old} there, {new} now" + (f" ({reason})" if reason else "")
            raise UserError(
                f"holds a run with other settings:{lines}\nGive the settings that it has to resume it,"
                " or another MODEL_DIR to start a new run (INITIAL_CHECKPOINT_PATH starts it from this"
                " one's parameters)",
                file=self.location,
            )


def code_here() -> dict[str, Any]:
    """What runs: the commit, and the versions of what it stands on."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"git_commit": git_commit(), "versions": versions}


def is_small(name: str) -> bool:
    """Whether a file of a run dir is brought from a URL at once: not checkpoints, evaluations, events."""
    top, _, rest = name.partition("/")
    if top == CHECKPOINTS:
        return rest.count("/") == 1 and rest.endswith(f"/{checkpoint_manifest.NAME}")
    return top not in (EVALUATIONS, EVENTS_FOLDER)


def compare_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The differing settings of two nested dicts: dotted name, old value, new value, as text."""
    left, right = _flatten(old), _flatten(new)
    absent = "absent"
    return [
        (
            name,
            repr(left[name]) if name in left else absent,
            repr(right[name]) if name in right else absent,
        )
        for name in sorted(left.keys() | right.keys())
        if (name in left) != (name in right) or left[name] != right[name]
    ]


def git_commit(file: artefacts.PathLike = __file__) -> str | None:
    """The commit of the checkout that has `file`, with `+` when its code differs; None outside one.

    An installed package that lies inside some other project's checkout is outside one.
    """
    folder = pathlib.Path(file).resolve().parent

    def git(*words: str) -> str | None:
        try:
            ran = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    if git("ls-files", "--error-unmatch", pathlib.Path(file).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/")
    return None if commit is None else commit + ("+" if changed else "")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
