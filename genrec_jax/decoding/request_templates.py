"""Which of a run's templates a request is asked by, and what an export says of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.decoding.request_checks import History
from genrec_jax.errors import UserError
from genrec_jax.prompts.templates import SEARCHED_TASKS

WITHOUT_HISTORY = ("straightforward",)


def default_for(run_dir: RunDir, has_history: bool) -> str:
    """The first template that training saw of a fitting task.

    Raises:
        UserError: there is no history, and the run has no template without one; or it was not trained to
            find items in the whole catalogue.
    """
    found = _first(run_dir, SEARCHED_TASKS if has_history else WITHOUT_HISTORY)
    if found is not None:
        return found
    if has_history:
        trained = ", ".join(run_dir.mixture["tasks"])
        raise UserError(
            f"this run was trained on {trained}, none of which asks for an item of the whole"
            f" catalogue; wanted a run of one of {', '.join(SEARCHED_TASKS)}",
            file=run_dir.location,
        )
    raise UserError(
        "the history is empty, and this run was trained on prompts that show one; wanted at least"
        " one item. (A run of the mixture `openp5` also knows prompts of the user alone)"
    )


def of(run_dir: RunDir, history: History, template: str | None) -> str | None:
    """The template of one request; None where all of its history was skipped and none does without.

    Args:
        run_dir: the run.
        history: what was read of the request's.
        template: the one that was asked for, if any.
    """
    if history.matches or not history.skipped:
        return template or default_for(run_dir, bool(history.matches))
    if template is None:
        return _first(run_dir, WITHOUT_HISTORY)
    shows = [one.id for one in run_dir.templates if "{history}" in one.input]
    return None if template in shows else template


def described(run_dir: RunDir) -> dict[str, Any] | None:
    """What whoever writes prompts without this library must know; None: no list was trained."""
    name = _first(run_dir, SEARCHED_TASKS)
    if name is None:
        return None
    (template,) = (one for one in run_dir.templates if one.id == name)
    return {
        "template": name,
        "input": template.input,
        "texts": dataclasses.asdict(template.texts),
        "history": run_dir.mixture["history"],
        "max_input_length": run_dir.mixture["max_input_length"],
    }


def _first(run_dir: RunDir, tasks: Sequence[str]) -> str | None:
    trained = run_dir.mixture["tasks"]
    for task in tasks:
        for template in run_dir.templates:
            if template.task == task and template.seen and (task in trained or not trained):
                return template.id
    return None
