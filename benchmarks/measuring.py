"""Runs the sections: interleaved, each client on one core, the server on another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from benchmarks.clients.job import Job, Measurement
from benchmarks.contenders import CONTENDERS, Contender, EngineKind, start_contender
from benchmarks.cores import Cores
from benchmarks.engines import (
    Engine,
    UnavailableError,
    local_engine,
    nats_server,
    neutral_server,
)
from benchmarks.processes import ProcessError, TalkingProcess
from benchmarks.results import Results
from benchmarks.scenarios import STREAM_LIMIT, Scenario, Section
from tests.interop.environments import EnvironmentBuildError

__all__ = ["Bench", "open_bench", "rounds_of"]

JOB_TIMEOUT = 600.0  # seconds

Progress = Callable[[str], None]


class Bench:
    """Engines and clients that are running, for measurements one at a time."""

    def __init__(self, engines: Mapping[EngineKind, Engine], cores: Cores) -> None:
        self._engines = engines
        self._cores = cores
        self._workers: dict[str, TalkingProcess] = {}

    @property
    def neutral(self) -> Engine:
        """What most is measured against."""
        return self._engines["neutral"]

    def run(self, section: Section, rounds: int, progress: Progress) -> Results:
        """Measures a section. One contender's failure does not stop the others."""
        results = Results(section)
        for scenario, number in _order(section, rounds_of(section, rounds)):
            for contender in _in_turn(section.contenders, number):
                progress(f"{scenario.title}: {contender.title}")
                self._measure(results, scenario, contender)
        return results

    def _measure(self, results: Results, scenario: Scenario, contender: Contender) -> None:
        section = results.section
        engine = self._engines.get(contender.engine or section.engine)
        if engine is None or (scenario.needs_neutral and not engine.is_neutral):
            return
        if (scenario.key, contender.key) in results.failures:
            return
        try:
            job = _job(engine, scenario, contender)
            measurement = self.measure(job, contender, fresh=section.fresh)
            engine.check(job)
        except (ProcessError, EnvironmentBuildError) as error:
            results.failures[scenario.key, contender.key] = str(error)
            print(f"{scenario.title}: {contender.title}: {error}", file=sys.stderr)
        else:
            results.add(scenario.key, contender.key, measurement)

    def measure(self, job: Job, contender: Contender, *, fresh: bool = False) -> Measurement:
        """Has a contender do a job.

        Raises:
            ProcessError: It could not.
        """
        if fresh:
            self._end_worker(contender)
        try:
            answer = self._worker(contender).ask(job.to_line(), JOB_TIMEOUT)
        except ProcessError:
            self._end_worker(contender)
            raise
        if "error" in answer:
            raise ProcessError(answer["error"])
        if fresh:
            self._end_worker(contender)
        return Measurement(**answer)

    def _worker(self, contender: Contender) -> TalkingProcess:
        if contender.key not in self._workers:
            self._workers[contender.key] = start_contender(contender, self._cores.client)
        return self._workers[contender.key]

    def _end_worker(self, contender: Contender) -> None:
        worker = self._workers.pop(contender.key, None)
        if worker is not None:
            worker.end()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.end()


def rounds_of(section: Section, rounds: int) -> int:
    """How many rounds a section has in a run of so many."""
    return rounds if section.rounds is None else min(rounds, section.rounds)


def _order(section: Section, rounds: int) -> list[tuple[Scenario, int]]:
    """What is compared stands close together: a machine is not equally fast all the time."""
    if section.baseline is None:
        return [(scenario, number) for number in range(rounds) for scenario in section.scenarios]
    return [(scenario, number) for scenario in section.scenarios for number in range(rounds)]


def _in_turn(keys: tuple[str, ...], number: int) -> list[Contender]:
    """Another one begins in each round, so that nobody has the best place always."""
    first = number % len(keys)
    return [CONTENDERS[key] for key in (*keys[first:], *keys[:first])]


def _job(engine: Engine, scenario: Scenario, contender: Contender) -> Job:
    job = scenario.make_job(engine)
    return replace(job, url=engine.websocket_url) if contender.websocket else job


@contextmanager
def open_bench(cores: Cores, note: Progress) -> Iterator[Bench]:
    """Starts the servers.

    Args:
        cores: Where everything runs.
        note: Is told what can't be had on this machine.
    """
    with ExitStack() as stack:
        engines: dict[EngineKind, Engine] = {}
        engines["local"] = stack.enter_context(local_engine(cores.server))
        try:
            engines["neutral"] = stack.enter_context(neutral_server(cores.server))
            engines["limited"] = stack.enter_context(neutral_server(cores.server, STREAM_LIMIT))
        except UnavailableError as error:
            engines["neutral"] = engines["limited"] = engines["local"]
            note(
                f"the neutral server can't be built ({error}): measured against the local engine, "
                "which is in Python and slower than the clients"
            )
        try:
            engines["nats"] = stack.enter_context(nats_server(cores.server))
        except UnavailableError as error:
            note(f"without nats-server: {error}")
        bench = Bench(engines, cores)
        stack.callback(bench.close)
        yield bench
