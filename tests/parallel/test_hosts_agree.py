"""What host 0 finds reaches every host, its mistakes too: real processes on loopback."""

import json

import pytest

from genrec_jax.parallel import hosts
from tests.training import test_hosts

ASKED = (
    test_hosts.JOIN
    + """
from genrec_jax.errors import UserError
from genrec_jax.parallel import hosts
number = jax.process_index()
asked = []

def steps():
    asked.append("steps")
    return {"steps": [10, 20], "clock": 0.1 + 0.2, "long": "x" * 3000, "nothing": None}

def refuse():
    raise UserError("is damaged", file="runs/a", line=3)

found = hosts.from_first(steps)
try:
    hosts.from_first(refuse)
except UserError as error:
    print(json.dumps([number, found, asked, str(error)]))
def fail():
    raise ValueError("no such thing")

try:
    hosts.from_first(fail)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
for chosen in (0, 1):
    try:
        hosts.together(refuse, on=lambda host: host == chosen, file="runs/b")
    except UserError as error:
        print(error)
hosts.together(steps, on=lambda host: host > 0, file="runs/b")
hosts.barrier()
print(len(asked))
"""
)


def test_one_host_is_asked_and_all_are_told():
    outputs = test_hosts.finish(test_hosts.start(ASKED, (2, 1, 1)))
    lines = [output.splitlines()[-5:] for output in outputs]
    told = [json.loads(each[0]) for each in lines]
    value = {"steps": [10, 20], "clock": 0.1 + 0.2, "long": "x" * 3000, "nothing": None}
    assert told[0] == [0, value, ["steps"], "runs/a:3: is damaged"]
    assert told[1] == [1, value, [], "runs/a:3: is damaged"]
    said = "host 0 failed (ValueError: no such thing); see its message"
    assert [each[1] for each in lines] == ["ValueError: no such thing", f"UserError: {said}"]
    own, heard = "runs/a:3: is damaged", "runs/b: host {} failed: runs/a:3: is damaged"
    assert [each[2:4] for each in lines] == [[own, heard.format(1)], [heard.format(0), own]]
    assert [each[4] for each in lines] == ["1", "1"], (
        "the second host acted, the first had been asked"
    )


def test_a_single_process_asks_itself():
    assert hosts.from_first(lambda: (1, 2)) == (1, 2)


LATE = (
    test_hosts.JOIN
    + """
import time
import numpy as np
from jax.experimental import multihost_utils
from genrec_jax.parallel import hosts

def slow():
    time.sleep(35)
    return "found"

print(hosts.from_first(slow))
hosts.together(slow, on=lambda host: host == 1, file="runs/a")
print(multihost_utils.process_allgather(np.int32(jax.process_index())))
"""
)


@pytest.mark.long
def test_a_host_may_be_late_by_more_than_gloo_waits_for_it():
    outputs = test_hosts.finish(test_hosts.start(LATE, (2, 1, 1)))
    assert all(
        [line for line in output.splitlines() if "Gloo" not in line] == ["found", "[0 1]"]
        for output in outputs
    )
