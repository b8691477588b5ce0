"""SeqIO tasks and mixtures, one module per system; the logic is in `genrec_jax.pipeline`."""
