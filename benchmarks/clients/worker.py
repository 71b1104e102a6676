"""The main loop of a measured program: a job per line of input, an answer per line of output."""

from __future__ import annotations

import gc
import json
import sys
import traceback
from collections.abc import Callable

from benchmarks.clients.job import Job, Measurement

__all__ = ["serve_jobs"]


def serve_jobs(run: Callable[[Job], Measurement]) -> None:
    """Runs jobs until the input ends.

    Args:
        run: Connects, runs the job's workload, disconnects.
    """
    for line in sys.stdin:
        gc.collect()
        print(_answer(run, Job.from_line(line)), flush=True)


def _answer(run: Callable[[Job], Measurement], job: Job) -> str:
    try:
        return run(job).to_line()
    except Exception as error:  # noqa: BLE001 - a failure is an answer too, whatever it is
        traceback.print_exc()
        return json.dumps({"error": f"{type(error).__name__}: {error}"})
