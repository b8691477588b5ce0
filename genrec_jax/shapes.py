"""One letter per dimension: the key to every suffixed array name (`logits_BTV`) in this codebase.

Array names end in the letters of their dimensions, in order; jaxtyping annotations and einsums use
the same letters. A suffix is written only for arrays, never for scalars or Python containers.

| letter | dimension |
|---|---|
| B | batch: rows of a batch (packed rows when packing) |
| L | length of the encoder's input, in tokens |
| T | length of the decoder's target, in tokens |
| Q | new decoder positions fed in one incremental call |
| S | slots of the decoder's self-attention cache |
| V | vocabulary, padded |
| D | width of the residual stream (`embed`) |
| F | hidden width of the feed-forward block (`mlp`) |
| H | attention heads |
| K | width of one head (`kv`) |
| N | layers of one stack |
| M | beams |
| C | candidate children read from the trie in one chunk |
| R | ranked results (the k of top-k) |
| E | examples in a block |
| P | packed tokens: the flat axis of a ragged array |
| U | users |
| I | items |
| X | interactions, sorted by user and then by time |
| W | words of a prompt (whole-word embedding) |
| Z | bootstrap resamples |
"""
