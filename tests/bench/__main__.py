"""`python -m tests.bench [NAME ...] [--json] [--list]`: the benchmarks, one JSON line or one table row each.

Every file bench_NAME.py has `run() -> list[dict]` with the keys of `FIELDS`; ours and the peer run in turn. A file with
`SLOW = True` runs when it is named, or with `--all`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

FIELDS = ("name", "ours", "peer", "ratio", "unit", "peer_name", "note")
NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON line a result")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and what they compare")
    parser.add_argument("--all", action="store_true", help="also those that take many minutes")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; known: {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"tests.bench.bench_{name}")
        if arguments.list:
            print(f"{name:16} {(module.__doc__ or '').strip().splitlines()[0]}")
            continue
        if getattr(module, "SLOW", False) and not (arguments.names or arguments.all):
            print(f"{name}: takes long; run it by its name or with --all", file=sys.stderr)
            continue
        for result in module.run():
            assert tuple(result) == FIELDS, f"{name}: {tuple(result)}"
            print(json.dumps(result) if arguments.json else _row(result), flush=True)
    return 0


def _row(result: dict[str, object]) -> str:
    return (
        f"{result['name']:20} ours {result['ours']:<12.5g} {result['peer_name']} {result['peer']:<12.5g} "
        f"{result['unit']}  ratio {result['ratio']:.2f}  {result['note']}"
    )


if __name__ == "__main__":
    sys.exit(main())
