"""Networks given by tables, and plain Python searches that the jitted one must equal."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.decoding import search

EOS = 1


def ragged(ids):
    """Values and offsets of a list of token lists."""
    lengths = [len(tokens) for tokens in ids]
    values = np.asarray([token for tokens in ids for token in tokens], np.int64)
    return values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def next_state(state, token, num_states):
    """A table network's memory: a hash of the tokens it was fed."""
    return (state * 31 + token * 7 + 3) % num_states


def table_network(table_BKV):
    """A network whose logits are rows of a table, chosen by a hash of the tokens so far."""
    num_states = table_BKV.shape[1]
    table_BKV = jnp.asarray(table_BKV)
    examples_B1 = jnp.arange(table_BKV.shape[0])[:, None]

    def advance(tokens_BMQ, slot, states_BM):
        rows = []
        for q in range(tokens_BMQ.shape[2]):
            states_BM = next_state(states_BM, tokens_BMQ[:, :, q], num_states)
            rows.append(table_BKV[examples_B1, states_BM])
        logits_BMQV = jnp.stack(rows, axis=2)
        return logits_BMQV, jax.nn.logsumexp(logits_BMQV, axis=3), states_BM

    def asked_logits(logits_BMV, tokens_BMC):
        return jnp.take_along_axis(logits_BMV, tokens_BMC, axis=2)

    def reorder(states_BM, parents_BM):
        return jnp.take_along_axis(states_BM, parents_BM, axis=1)

    return search.Network(advance, asked_logits, reorder)


def run_tables(table_BKV, trie, config, constraints=None):
    """Searches under a table network."""
    batch = table_BKV.shape[0]
    cache = jnp.zeros((batch, 1), jnp.int32)
    network = table_network(table_BKV)
    return search.beam_search(network, cache, trie, config, jnp.ones(batch, bool), constraints)


def log_probabilities(table_KV, tokens, valid=None):
    """Log-softmax after `tokens` in float64; over the tokens in `valid` only, if given."""
    state = 0
    for token in (0, *tokens):
        state = next_state(state, token, table_KV.shape[0])
    logits = table_KV[state].astype(np.float64)
    among = logits if valid is None else logits[sorted(valid)]
    return logits - (among.max() + np.log(np.exp(among - among.max()).sum()))


def brute_force(table_KV, ids, renormalise=False):
    """Log-probability of every id, end-of-sequence included."""
    whole = [(*tokens, EOS) for tokens in ids]
    scores = []
    for tokens in whole:
        score = 0.0
        for i, token in enumerate(tokens):
            valid = {w[i] for w in whole if w[:i] == tokens[:i]} if renormalise else None
            score += log_probabilities(table_KV, tokens[:i], valid)[token]
        scores.append(score)
    return np.asarray(scores)


def plain_search(table_KV, ids, config):
    """Beam search as one would write it down: lists of (score, smallest item, tokens)."""
    whole = {(*tokens, EOS): item for item, tokens in enumerate(ids)}
    smallest = {}
    for tokens, item in whole.items():
        for i in range(len(tokens) + 1):
            smallest[tokens[:i]] = min(item, smallest.get(tokens[:i], item))
    beams, pool = [(0.0, ())], []
    longest = max(len(tokens) for tokens in whole)
    order = lambda child: (-child[0], smallest[child[1]])  # noqa: E731
    for length in range(1, longest + 1):
        children = []
        for score, tokens in beams:
            valid = {w[len(tokens)] for w in whole if w[: len(tokens)] == tokens and w != tokens}
            if not valid:
                continue
            over = valid if config.renormalise else None
            log_probs = log_probabilities(table_KV, tokens, over)
            children += [(score + log_probs[token], (*tokens, token)) for token in valid]
        children.sort(key=order)
        ending = children[: config.num_beams] if config.finish_within_beams else children
        for score, tokens in ending:
            if tokens in whole:
                pool.append((score / length**config.length_penalty, tokens))
        pool = sorted(pool, key=order)[: config.num_results]
        beams = [child for child in children if child[1] not in whole][: config.num_beams]
        if not beams:
            break
        full = len(pool) == config.num_results
        if config.finish_within_beams and full:
            # Hugging Face stops here, under a length penalty sometimes too soon.
            best = beams[0][0] / length**config.length_penalty
            if best <= pool[-1][0]:
                break
    return [whole[tokens] for _, tokens in pool], [score for score, _ in pool]


def smallest_gap(values):
    """The smallest difference between neighbours in order; inf for fewer than two."""
    return float(np.diff(np.sort(values)).min()) if len(values) > 1 else math.inf
