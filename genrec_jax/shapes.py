"""One letter per dimension: the key to every suffixed array name (`logits_BTV`) in this codebase.

Array names end in the letters of their dimensions, in order; jaxtyping annotations and einsums use
the same letters. A suffix is written only for arrays, never for scalars or Python containers. A digit is a
dimension of so many entries (`spans_BM2` has two for each beam); the 1 of `offsets_U1` says that it has one
entry more than there are users, and so may an annotation alone (`offsets_I: Int[Array, "I1"]`). A word as a
dimension speaks for itself.

| letter | dimension |
|---|---|
| B | batch: rows of a batch (packed rows when packing) |
| L | length of the encoder's input, in tokens |
| T | length of the decoder's target, in tokens |
| Q | new decoder positions fed in one incremental call |
| q | decoder positions that are asked about, which need not be those of a call |
| S | slots of the decoder's self-attention cache |
| s | positions that a bias is of, which need not be those of the slots |
| V | vocabulary, padded |
| D | width of the residual stream (`embed`) |
| F | hidden width of the feed-forward block (`mlp`) |
| H | attention heads |
| K | width of one head (`kv`) |
| N | layers of one stack |
| M | beams |
| C | candidates: children read from the trie in one chunk, items to be ranked |
| J | nodes of the trie |
| A | arcs of the trie |
| Y | tokens of the trie: of its arcs, then of its tails (what is left of an id once no other shares it) |
| G | groups of neighbouring tokens that share a bound |
| R | ranked results (the k of top-k) |
| E | examples in a block |
| P | packed tokens: the flat axis of a ragged array |
| U | users |
| I | items |
| X | interactions, sorted by user and then by time |
| W | words of a prompt (whole-word embedding) |
| Z | bootstrap resamples |

There are more dimensions than letters. Second meanings:

| letter | where | dimension |
|---|---|---|
| C | training/losses.py | target positions of one chunk |
| H | data/audit_tasks.py, pipeline/mixture_audit.py | positions that are held out |
| J | data/hashing.py, pipeline/ | places of one example: draws, items of a prompt, runs of a template |
| J | model/attention.py | heads and their widths, joined |
| K | evaluation/ | depths at which lists are compared |
| M | indexing/spectral.py | eigenvectors |
| N | data/, decoding/, evaluation/, indexing/ | entries of any flat list: values, children, examples |
| N | pipeline/ | examples or windows of an epoch |
| N | model/layers.py | rows of any shape, flattened |
| N | training/losses.py | chunks of target positions |
| P | decoding/network.py | chunks of candidates |
| P | model/incremental.py | slots that all beams share |
| P | indexing/spectral.py | pivots |
| R | decoding/live.py | items to retire |
| R | pipeline/blend.py | places of a round |
| S | decoding/selection.py | groups of candidates that are read |
| S | evaluation/, pipeline/packing.py | a sample, or scores in order |
| S | pipeline/alignment_masking.py, pipeline/span_corruption.py | masked spans and their sentinels |
| T | decoding/reading.py | units that are read in a round |
| T | decoding/token_trees.py, decoding/t5x_search.py | tokens of an id |
| T | model/incremental.py | steps of a beam after those that all share |
| T | pipeline/ | templates |
| U | decoding/reading.py | units: the groups of all beams in one row |
| W | decoding/reading.py | tokens of a group |
| W | evaluation/ | items of a history |
| X | model/incremental.py | steps of all beams in one flat row |
| X | decoding/ | items of a request's list; places, rows or beams in one flat row |
"""
