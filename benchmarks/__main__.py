"""``python -m benchmarks``: measures everything, and shows, keeps and draws the results."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cores import choose_cores
from benchmarks.document import write_document
from benchmarks.machine import describe_machine
from benchmarks.measuring import open_bench, rounds_of
from benchmarks.plots import draw_all
from benchmarks.processes import CHECKOUT
from benchmarks.results import Results
from benchmarks.scenarios import Section, sections
from benchmarks.showing import progress_bar, show
from benchmarks.tables import Table, load_table, section_tables, wire_table
from benchmarks.wire_bytes import CLIENTS, RECIPIENTS, count_wire_bytes

WIRE = "wire"


class Run(NamedTuple):
    """All that came out of a run."""

    results: list[Results]
    wire: dict[str, dict[int, float]]
    notes: list[str]
    machine: Mapping[str, str]

    @classmethod
    def kept_in(cls, path: Path) -> Run:
        """An earlier one."""
        kept = json.loads(path.read_text())
        known = {section.key: section for section in sections(full=True)}
        results = [Results.from_json(each, known[each["section"]]) for each in kept["sections"]]
        wire = {
            client: {int(recipients): size for recipients, size in sizes.items()}
            for client, sizes in kept["wire_bytes"].items()
        }
        return cls(results, wire, kept["notes"], kept["machine"])

    def tables(self) -> list[Table]:
        made = [table for results in self.results for table in section_tables(results)]
        if self.wire:
            made.append(wire_table(self.wire))
        load = load_table(self.results)
        return [*made, load] if load.rows else made

    def as_json(self) -> str:
        return json.dumps(
            {
                "machine": self.machine,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "notes": self.notes,
                "sections": [results.as_json() for results in self.results],
                "wire_bytes": self.wire,
            },
            indent=1,
        )


def main() -> None:
    options = _parse()
    run = Run.kept_in(options.kept) if options.kept else _measure(_chosen(options), options)
    tables = run.tables()
    for table in tables:
        show(table)
    for note in run.notes:
        print(f"Note: {note}")
    pictures = draw_all(run.results)
    if not options.kept:
        _keep(run, pictures, options.output)
    if options.docs:
        write_document(tables, pictures, run.notes, run.machine)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [section.key for section in sections(full=False)]
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--full", action="store_true", help="also what takes long")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*names, WIRE],
        default=[*names, WIRE],
        metavar="SECTION",
        help=f"sections to run, out of {', '.join([*names, WIRE])}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=CHECKOUT / "build" / "benchmarks" / "results",
        help="where the results and the pictures go",
    )
    parser.add_argument(
        "--kept",
        type=Path,
        metavar="FILE",
        help="show what an earlier run has kept, and run nothing",
    )
    parser.add_argument(
        "--docs", action="store_true", help="put them into docs/performance.md and docs/plots too"
    )
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Section]:
    return [section for section in sections(full=options.full) if section.key in options.only]


def _measure(chosen: Sequence[Section], options: argparse.Namespace) -> Run:
    notes: list[str] = []
    cores = choose_cores()
    if cores.client is None:
        notes.append("client and server shared their cores: this machine can't keep them apart")
    with open_bench(cores, notes.append) as bench, progress_bar(_steps(chosen, options)) as step:
        results = [bench.run(section, options.rounds, step) for section in chosen]
        wire = count_wire_bytes(bench, step) if WIRE in options.only else {}
        step("done")
    return Run(results, wire, notes, describe_machine())


def _steps(chosen: Sequence[Section], options: argparse.Namespace) -> int:
    measurements = sum(
        len(section.contenders) * len(section.scenarios) * rounds_of(section, options.rounds)
        for section in chosen
    )
    return measurements + (len(CLIENTS) * len(RECIPIENTS) if WIRE in options.only else 0)


def _keep(run: Run, pictures: dict[str, str], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    output.joinpath("results.json").write_text(run.as_json())
    for name, picture in pictures.items():
        output.joinpath(f"{name}.svg").write_text(picture)
    print(f"Kept in {output}")


if __name__ == "__main__":
    main()
