import pytest

from genrec_jax.decoding import constraints, request_shapes


def test_prompts_beyond_the_ladder_share_shapes_too():
    """Alignment's prompts have up to 1,024 tokens and more."""
    lengths = {request_shapes.length_for(length) for length in range(1, 1537)}
    assert lengths == {*request_shapes.LENGTHS, 1024, 2048}


@pytest.mark.parametrize("longest", [1, 20, 32, 33, 100, 512, 513, 1100])
def test_all_lengths_of_prompts(longest):
    needed = {request_shapes.length_for(length) for length in range(1, longest + 1)}
    assert request_shapes.lengths_up_to(longest) == sorted(needed)


def test_all_widths_of_lists():
    assert request_shapes.widths_up_to(0) == request_shapes.widths_up_to(32) == [32]
    assert request_shapes.widths_up_to(200) == [32, 64, 128, 256]
    for length in range(200):
        assert constraints.width_for(length) in request_shapes.widths_up_to(length)


def test_batches_are_at_least_half_full():
    assert request_shapes.batch_sizes(0) == []
    assert request_shapes.batch_sizes(3) == [1, 1, 1] and request_shapes.batch_sizes(5) == [5]
    assert request_shapes.batch_sizes(16) == [8, 8] and request_shapes.batch_sizes(32) == [32]
    assert request_shapes.batch_sizes(149) == [64, 64, 8, 8, 5]
    for requests in range(1, 200):
        sizes = request_shapes.batch_sizes(requests)
        assert sum(sizes) == requests
        for size in sizes:
            assert 2 * size >= request_shapes.rows_for(size)
