"""Log-odds of two answers against the whole model's logits at the first target position."""

import jax
import numpy as np
import pytest

from genrec_jax.decoding.answers import make_answer_step
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel import rules
from genrec_jax.pipeline.batch import PromptBatch
from tests.model import fixture_params


@pytest.mark.parametrize("name", ["hf_t511", "hf_t50"])
def test_log_odds_are_those_of_the_first_step(shared, name):
    folder = shared / "fixtures" / name
    _, graphdef, params = fixture_params.load(folder)
    stored = dict(np.load(folder / "beams.npz"))
    tokens_BL = stored["input_ids"]
    nobody_B = np.full(len(tokens_BL), -1, np.int32)
    batch = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), nobody_B, nobody_B)
    # Ids of the fixture's catalogue give teacher-forced log-probabilities of first tokens by HF.
    firsts = stored["item_tokens"][:, 0]
    first = int(firsts[0])
    second = int(next(token for token in firsts if token != first))
    place, other = (int(np.flatnonzero(firsts == token)[0]) for token in (first, second))
    log_probs_BI = stored["brute_token_logprobs"][:, :, 0]
    wanted_B = log_probs_BI[:, place] - log_probs_BI[:, other]
    odds_B = make_answer_step(graphdef, first, second)(params, batch)
    np.testing.assert_allclose(odds_B, wanted_B, atol=2e-5)
    if name == "hf_t511":
        mesh = mesh_lib.make_mesh(data=4, fsdp=2)
        rows = np.arange(8) % len(tokens_BL)
        batch = jax.tree.map(lambda array: array[rows], batch)
        split_B = make_answer_step(graphdef, first, second, mesh)(
            jax.device_put(params, rules.replicated(mesh)),
            jax.device_put(batch, rules.batch_sharding(mesh)),
        )
        np.testing.assert_allclose(split_B, wanted_B[rows], atol=2e-5)
