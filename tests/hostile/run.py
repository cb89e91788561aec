"""Run the invalid inputs and print a table of the outcomes.

    PYTHONPATH=tests python -m hostile.run [--kind WORDS] [--every N] [--workers N] [--real N] [--json FILE] [--folder FOLDER]

The exit code is 1 if any outcome is unexpected.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hostile.cases import ACCEPTED, PARTIAL, REFUSED
from hostile.generate import all_cases
from hostile.runner import Result, Runner, write_results

_COLUMNS = ("traceback", "crashed", "hang", "executed")


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a Markdown table with counts by kind."""
    yield "| kind | cases | refused | partial | accepted | tracebacks | crashes | hangs | executions | foreign files touched | unexpected |"
    yield "|---|" + "---:|" * 10
    kinds = [*dict.fromkeys(result.kind for result in results)]
    for kind, matching in [
        *((kind, [r for r in results if r.kind == kind]) for kind in kinds),
        ("**all**", [*results]),
    ]:
        count = Counter(result.outcome for result in matching)
        touched = sum(any("foreign files" in problem for problem in result.problems) for result in matching)
        wrong = sum(bool(result.problems) for result in matching)
        counts = (count[key] for key in (REFUSED, PARTIAL, ACCEPTED, *_COLUMNS))
        yield f"| {kind} | {len(matching)} | {' | '.join(map(str, counts))} | {touched} | {wrong} |"


def reasons(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line of accepted inputs per kind and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.outcome == ACCEPTED and result.reason:
            groups.setdefault((result.kind, result.reason), []).append(result.id.removeprefix(f"{result.kind}/"))
    for (kind, reason), names in groups.items():
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield f"- {kind}: {shown}: {reason}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="", help="text in the kind (default: all kinds)")
    parser.add_argument("--name", default="", help="text in the name of a case (default: all cases)")
    parser.add_argument("--every", type=int, default=1, help="run every N-th case")
    parser.add_argument("--start", type=int, default=0, help="index of the first case")
    parser.add_argument("--real", type=int, default=0, help="run N evenly spaced cases as real commands")
    parser.add_argument("--workers", type=int, default=1, help="number of parallel processes")
    parser.add_argument("--json", type=Path, help="JSON file for all results")
    parser.add_argument("--folder", type=Path, help="folder to run in; it keeps the folders of cases with problems")
    parser.add_argument("--count", action="store_true", help="print the number of cases and run none")
    arguments = parser.parse_args()
    cases = [case for case in all_cases() if arguments.kind in case.kind and arguments.name in case.name]
    cases = cases[arguments.start :: arguments.every]
    if arguments.real:
        cases = cases[:: max(1, len(cases) // arguments.real)][: arguments.real]
    if arguments.count:
        print("\n".join(f"{count:5} {kind}" for kind, count in Counter(case.kind for case in cases).items()))
        print(f"{len(cases):5} cases")
        return
    results: list[Result] = []
    touched: list[str] = []

    def work(shard: int) -> None:
        runner = Runner(folder / str(shard), keep=arguments.folder is not None)
        for case in cases[shard :: arguments.workers]:
            result = runner.run(case, bool(arguments.real))
            results.append(result)
            for problem in result.problems:
                print(f"{result.id.encode('utf-8', 'backslashreplace').decode()}: {problem}", flush=True)
            if arguments.json and len(results) % 50 == 0:
                write_results(results, arguments.json)
        touched.extend(runner.close())

    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.workers) as workers:
        folder = arguments.folder or Path(temporary)
        list(workers.map(work, range(arguments.workers)))
    order = {case.id: number for number, case in enumerate(cases)}
    results.sort(key=lambda result: order[result.id])
    if arguments.json:
        write_results(results, arguments.json)
    print(
        "\n".join([*touched, "", *table(results), "", *reasons(results)]).encode("utf-8", "backslashreplace").decode()
    )
    distinct = len({result.digest for result in results})
    print(f"\n{distinct} distinct inputs, {sum(result.seconds for result in results):.0f} s")
    raise SystemExit(bool(touched) or any(result.problems for result in results))


if __name__ == "__main__":
    main()
