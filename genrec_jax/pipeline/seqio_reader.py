"""Batches of a user's own SeqIO mixture, with the interface of `TrainBatches`.

`MIXTURE_OR_TASK_MODULE` names the module that registers it. SeqIO's pipelines are streams, so a
step's batch is found by reading on, or by starting again and skipping: exact, and slow far from the
start.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.pipeline import packing as packing_lib
from genrec_jax.pipeline import seqio_runtime
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.packing import Shape

SEQUENCES = ("inputs", "targets")
_UNCUT = 1 << 20  # the length that SeqIO is told targets have: more than any, so that it cuts none
_TOO_LONG = "a target is too long"


class SeqIOBatches:
    """`batch(step)` over a SeqIO mixture or task, through SeqIO's own encoder-decoder converter.

    Every host reads the whole stream and keeps its own rows, so the batch is the same however many
    hosts there are. Whole-word ids are computed from the tokens.

    Attributes:
        name: the mixture or task.
        vocabulary: that of its features.
        examples_per_step: over all hosts; None when packed: a row holds as many examples as fit.
        shapes: the one shape that batches have.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        *,
        module: str | None = None,
        feature_lengths: Mapping[str, int | None],
        split: str = "train",
        packing: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        host: int = 0,
        num_hosts: int = 1,
        rows_multiple: int = 1,
    ):
        """Imports the module and looks the mixture up; nothing is read yet.

        Args:
            name: of a registered mixture or task with the features `inputs` and `targets`.
            batch_size: rows of a step over all hosts.
            module: imported first; its import registers the mixture.
            feature_lengths: tokens of `inputs`, which SeqIO cuts at the end, and of `targets`, which are
                never cut.
            split: which split.
            packing: put several examples in a row.
            shuffle: in SeqIO's way, with a buffer.
            seed: of SeqIO's shuffling and mixing.
            host: which host this is.
            num_hosts: how many there are.
            rows_multiple: devices along the batch, over all hosts.

        Raises:
            UserError: the module, the mixture or the split is not there, its features do not fit an
                encoder-decoder, or sizes do not divide.
        """
        self._seqio, self._tf = seqio_runtime.import_seqio()
        provider = open_mixture(name, module)
        if split not in provider.splits:
            raise UserError(
                f"the SeqIO mixture {name!r} has no {split} split (it has"
                f" {', '.join(sorted(provider.splits)) or 'none'}). Register a task of it with that split"
                + (
                    ""
                    if split == "train"
                    else ", or turn validation off with --gin.EVAL_PERIOD=None"
                )
            )
        check_batch_size(batch_size, rows_multiple, num_hosts)
        if set(feature_lengths) != set(SEQUENCES) or None in feature_lengths.values():
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {dict(feature_lengths)}; a SeqIO mixture needs a length for"
                ' "inputs" and for "targets", such as {"inputs": 512, "targets": 32}'
            )
        self.name = name
        self._provider = provider
        self.vocabulary = vocabulary_of(name, provider)
        self.examples_per_step = None if packing else batch_size
        self._lengths = {name: length for name, length in feature_lengths.items() if length}
        self._packing = packing
        self.shapes = (Shape(batch_size, self._lengths["inputs"], self._lengths["targets"]),)
        self._options = {
            "split": split,
            "shuffle": shuffle,
            "seed": seed,
        }
        self._rows = slice(host * batch_size // num_hosts, (host + 1) * batch_size // num_hosts)
        self._iterator: Iterator[dict[str, np.ndarray]] | None = None
        self._next_step = 0

    def batch(self, step: int) -> Batch:
        """Makes this host's rows of a step; steps in order are read once, others are searched for.

        Raises:
            UserError: the mixture has no example, or one with a target over its length.
        """
        if self._iterator is None or step < self._next_step:
            self._iterator = self._stream(step)
            self._next_step = step
        elif step > self._next_step:
            for _ in range(step - self._next_step):
                self._advance()
            self._next_step = step
        features = self._advance()
        self._next_step += 1
        return self._to_batch({name: array[self._rows] for name, array in features.items()})

    def _advance(self) -> dict[str, np.ndarray]:
        assert self._iterator is not None
        try:
            features = next(self._iterator, None)
        except self._tf.errors.InvalidArgumentError as error:
            if (found := re.search(rf"{_TOO_LONG}\W+(\d+)", str(error))) is None:
                raise
            raise UserError(
                f"a target of the SeqIO mixture {self.name!r} has {found[1]} tokens, end-of-sequence"
                f" included; the limit is {self._lengths['targets']}. Targets are never cut: set"
                f' TASK_FEATURE_LENGTHS["targets"] to {found[1]} or more'
            ) from error
        if features is None:
            raise UserError(f"the SeqIO mixture {self.name!r} has no example")
        return features

    def _stream(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """The endless stream of batches from a step on; SeqIO makes the skipped ones, unseen."""
        uncut = self._lengths | {"targets": _UNCUT}
        examples = self._provider.get_dataset(uncut, num_epochs=None, **self._options)
        convert = self._seqio.EncDecFeatureConverter(pack=self._packing)
        dataset = convert(examples.map(self._check_target), self._lengths)
        batches = dataset.batch(self.shapes[0].rows, drop_remainder=True)
        options = self._tf.data.Options()
        options.deterministic = True
        return iter(batches.with_options(options).skip(step).as_numpy_iterator())

    def _check_target(self, example: dict[str, Any]) -> dict[str, Any]:
        """Fails, within TensorFlow, on a target that the converter would have to cut."""
        tokens = self._tf.size(example["targets"])
        self._tf.debugging.Assert(tokens <= self._lengths["targets"], [_TOO_LONG, tokens])
        return example

    def _to_batch(self, features: dict[str, np.ndarray]) -> Batch:
        inputs_BL = features["encoder_input_tokens"].astype(np.int32)
        targets_BT = features["decoder_target_tokens"].astype(np.int32)
        if self._packing:
            encoder_segments_BL = features["encoder_segment_ids"]
            decoder_segments_BT = features["decoder_segment_ids"]
            encoder_positions_BL = features["encoder_positions"]
            decoder_positions_BT = features["decoder_positions"]
        else:
            encoder_segments_BL, decoder_segments_BT = inputs_BL > 0, targets_BT > 0
            encoder_positions_BL = np.arange(inputs_BL.shape[1]) * encoder_segments_BL
            decoder_positions_BT = np.arange(targets_BT.shape[1]) * decoder_segments_BT
        return Batch(
            encoder_input_tokens_BL=inputs_BL,
            decoder_target_tokens_BT=targets_BT,
            decoder_input_tokens_BT=features["decoder_input_tokens"].astype(np.int32),
            decoder_loss_weights_BT=features["decoder_loss_weights"].astype(np.float32),
            encoder_segment_ids_BL=encoder_segments_BL.astype(np.int32),
            decoder_segment_ids_BT=decoder_segments_BT.astype(np.int32),
            encoder_positions_BL=encoder_positions_BL.astype(np.int32),
            decoder_positions_BT=decoder_positions_BT.astype(np.int32),
            encoder_whole_word_ids_BL=whole_words(
                self.vocabulary, inputs_BL, encoder_segments_BL > 0, encoder_positions_BL
            ),
        )


def check_batch_size(batch_size: int, rows_multiple: int, num_hosts: int = 1) -> None:
    """Checks that a batch's rows can be shared out; SeqIO makes `batch_size` of them, packed or not.

    Raises:
        UserError: they cannot.
    """
    if batch_size % packing_lib.round_up(rows_multiple, num_hosts) or batch_size < 1:
        raise UserError(
            f"batch_size is {batch_size}; it must be a multiple of {rows_multiple} (devices along the"
            f" batch) and of the {num_hosts} hosts"
        )


def whole_words(
    vocabulary: Vocabulary,
    tokens_BL: Int[np.ndarray, "B L"],
    real_BL: Bool[np.ndarray, "B L"],
    positions_BL: Int[np.ndarray, "B L"],
) -> Int32[np.ndarray, "B L"]:
    """The index of each token's word within its example, from 1; 0 at end-of-sequence and padding.

    Args:
        vocabulary: of the tokens.
        tokens_BL: inputs, possibly several packed in a row.
        real_BL: where there is no padding.
        positions_BL: of each token within its example.
    """
    starts_BL = (vocabulary.word_starts_V[tokens_BL] & real_BL).astype(np.int32)
    words_BL = np.cumsum(starts_BL, axis=1)
    begins_BL = real_BL & (positions_BL == 0)
    before_BL = np.where(begins_BL, words_BL - starts_BL, 0)
    words_BL -= np.maximum.accumulate(before_BL, axis=1)
    return np.where(real_BL & (tokens_BL != vocabulary.eos_id), words_BL, 0).astype(np.int32)


def open_mixture(name: str, module: str | None = None) -> Any:
    """Imports the module, which registers a mixture or task, and looks it up.

    Raises:
        UserError: the module fails, or SeqIO does not know the name afterwards.
    """
    seqio, _ = seqio_runtime.import_seqio()
    if module is not None:
        _import(module)
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as error:
        raise UserError(
            f"SeqIO knows no mixture or task {name!r} after importing {module!r}; wanted a module"
            " whose import registers it. Set MIXTURE_OR_TASK_MODULE"
        ) from error


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"MIXTURE_OR_TASK_MODULE is {module!r}, which cannot be imported ({error}); wanted a module on"
            " PYTHONPATH whose import registers the mixture with SeqIO"
        ) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"importing the module {module!r}, which registers the SeqIO mixture, failed with"
            f" {type(error).__name__}: {error}. Mend it, or set the environment that it reads; --debug"
            " shows where"
        ) from error


def vocabulary_of(name: str, provider: Any) -> Vocabulary:
    """The one SentencePiece model of a mixture's inputs and targets.

    Raises:
        UserError: there is more than one, or none, or it has extra ids.
    """
    features = provider.output_features
    missing = [sequence for sequence in SEQUENCES if sequence not in features]
    models = {
        getattr(features[sequence].vocabulary, "sentencepiece_model_file", None)
        for sequence in SEQUENCES
        if sequence not in missing
    }
    if missing or None in models or len(models) != 1:
        raise UserError(
            f"the SeqIO mixture {name!r} has the features {sorted(features)} with the SentencePiece models"
            f" {sorted(map(str, models))}; wanted `inputs` and `targets` on one SentencePieceVocabulary"
        )
    if extra := features["inputs"].vocabulary.extra_ids:
        raise UserError(
            f"the SeqIO mixture {name!r} has a vocabulary with extra_ids={extra}; wanted 0, because ours"
            " holds the sentinels in the .model itself. Use the vocabulary.model that `genrec index` wrote"
        )
    (model,) = models
    return Vocabulary(str(model))
