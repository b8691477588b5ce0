"""The metrics record and the event file: the same content, cut back together."""

import json
import struct

import pytest
from tensorboard.compat.proto import event_pb2

from genrec_jax.checkpoint import run_log
from genrec_jax.errors import UserError
from genrec_jax.training import logging


def events(run_dir):
    """(step, tag, value) of every scalar, read record by record."""
    content = (run_dir / "tensorboard" / logging.EVENTS_FILE).read_bytes()
    found, place = [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        place += 16 + length
    assert place == len(content)
    return found


def write_five(run_dir):
    log = logging.MetricsLog(run_dir, after_step=0)
    for step in range(1, 6):
        log.write(step, "train", {"loss": 8.0 / step})
    log.write(5, "validation", {"hr@10": 0.5, "loss": float("nan")})
    log.close()


def test_both_files_hold_the_same(tmp_path):
    write_five(tmp_path)
    records = run_log.read_metrics(tmp_path)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 5]
    assert records[1]["loss"] == 4.0
    assert records[5]["kind"] == "validation"
    assert events(tmp_path) == [
        *[(step, "train/loss", pytest.approx(8 / step)) for step in range(1, 6)],
        (5, "validation/hr@10", 0.5),
    ]


def test_what_is_no_finite_number_is_null(tmp_path):
    write_five(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1], parse_constant=pytest.fail)
    assert (last["hr@10"], last["loss"]) == (0.5, None)


def test_resuming_cuts_both_back_to_the_restored_step(tmp_path):
    write_five(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ki')  # torn by a kill
    log = logging.MetricsLog(tmp_path, after_step=3)
    log.write(4, "train", {"loss": 1.0})
    log.close()
    assert [(r["step"], r["loss"]) for r in run_log.read_metrics(tmp_path)] == [
        (1, 8.0),
        (2, 4.0),
        (3, 8.0 / 3),
        (4, 1.0),
    ]
    assert [step for step, _, _ in events(tmp_path)] == [1, 2, 3, 4]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_validation_that_is_to_come_again_leaves_no_record_behind(tmp_path):
    write_five(tmp_path)
    logging.MetricsLog(tmp_path, after_step=5, owes_validation=True).close()
    kept = [(r["step"], r["kind"]) for r in run_log.read_metrics(tmp_path)]
    assert kept == [(step, "train") for step in range(1, 6)]
    assert [tag for _, tag, _ in events(tmp_path)] == ["train/loss"] * 5


def test_a_fresh_start_keeps_nothing(tmp_path):
    write_five(tmp_path)
    logging.MetricsLog(tmp_path, after_step=0).close()
    assert run_log.read_metrics(tmp_path) == []
    assert events(tmp_path) == []


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\nbroken\n{}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:2: is not JSON"):
        run_log.read_metrics(tmp_path)


def test_a_full_disk_is_a_readable_error(tmp_path):
    log = logging.MetricsLog(tmp_path, after_step=0)
    log._metrics.close()
    with open("/dev/full", "ab", buffering=0) as full:
        log._metrics = full
        with pytest.raises(UserError, match="disk is full"):
            log.write(1, "train", {"loss": 1.0})
        log.close()
