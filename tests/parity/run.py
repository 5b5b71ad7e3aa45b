#!/usr/bin/env python3
"""Runs cases on Envoy and on ours and lists what differs. See README.md beside this file."""

import argparse
import fnmatch
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import case as cases
import compare
import proxy

HERE = Path(__file__).resolve().parent
DIFFERENCES = proxy.ROOT / "docs/differences.md"


def documented():
    """The keys of the table in docs/differences.md: `case/exchange aspect`, each part may be a pattern."""
    if not DIFFERENCES.exists():
        return []
    return re.findall(r"^\| `([\w*?-]+/[\w*-]* [^`]+)` \|", DIFFERENCES.read_text(), flags=re.M)


def check(case, envoy, second, binary):
    """(differences, error) of one case."""
    try:
        with ThreadPoolExecutor(2) as pool:
            left = pool.submit(compare.run, case, "envoy", envoy)
            right = pool.submit(compare.run, case, second, binary)
            return compare.differences(left.result(), right.result()), left.result(), None
    except (proxy.StartError, cases.CaseError, OSError) as error:
        return [], {}, str(error)


def select(names, folder=HERE / "cases"):
    paths = sorted(folder.glob("*.case"))
    chosen = [path for path in paths if not names or any(fnmatch.fnmatch(path.stem, name) for name in names)]
    if not chosen:
        raise SystemExit(f"no such case; there are: {' '.join(path.stem for path in paths)}")
    return [case for path in chosen for case in cases.load(path).variants()]


def judge(case, found, keys):
    """Splits the differences into those that a key explains and the rest; also gives the keys that matched nothing."""
    used, rest = set(), []
    for exchange, aspect, a, b in found:
        name = f"{case.name}/{exchange} {aspect}"
        matching = [key for key in keys if fnmatch.fnmatchcase(name, key.replace("[", "[[]"))]
        used.update(matching)
        if not matching:
            rest.append((name, a, b))
    return rest, used


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sota", help="the binary to compare with Envoy")
    parser.add_argument("--self-check", action="store_true", help="compare Envoy with itself")
    parser.add_argument("--show", action="store_true", help="print what Envoy did")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    envoy = proxy.envoy_binary()
    if not envoy:
        sys.exit("no Envoy: python3 tests/run.py --prepare-only fetches it")
    second, binary = ("envoy", envoy) if arguments.self_check else ("sota", arguments.sota or proxy.main_binary())
    chosen = select(arguments.cases)
    keys = [] if arguments.self_check else documented()
    started = time.monotonic()
    failed, used, exchanges = 0, set(), 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for case, (found, seen, error) in zip(
            chosen, pool.map(lambda case: check(case, envoy, second, binary), chosen)
        ):
            exchanges += len(case.exchanges)
            if arguments.show:
                show(case, seen)
            if error:
                failed += 1
                print(f"{case.name}: {error}")
                continue
            rest, matched = judge(case, found, keys)
            used |= matched
            failed += len(rest)
            print(f"{case.name}: {len(case.exchanges)} exchanges, {len(found)} differences, {len(rest)} undocumented")
            for name, a, b in rest:
                print(f"  {name}\n    envoy: {a}\n    ours:  {b}")
    run_names = {case.name for case in chosen}
    for key in keys:
        # A key with a pattern for the case belongs to no case alone: it is checked when all run.
        its_case = key.split("/")[0]
        if key not in used and (its_case in run_names or not arguments.cases):
            failed += 1
            print(f"docs/differences.md: `{key}` is no difference (any more)")
    print(f"parity: {len(chosen)} cases, {exchanges} exchanges, {failed} failures, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def show(case, seen):
    for exchange, aspects in seen.items():
        print(f"--- {case.name}/{exchange}")
        for aspect, value in aspects.items():
            print(f"    {aspect}: {value}")


if __name__ == "__main__":
    sys.exit(main())
