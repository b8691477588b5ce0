"""The shop with ratings and titles that the alignment tasks' tests share, and T5's vocabulary."""

import pytest

from tests.pipeline import alignment_data
from tests.pipeline.alignment_data import ByHand


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    return alignment_data.write_shop(tmp_path_factory.mktemp("alignment") / "shop")


@pytest.fixture(scope="session")
def words(shared):
    return alignment_data.t5_with_sentinels(shared)


@pytest.fixture(scope="session")
def by_hand(shop):
    return ByHand(shop)
