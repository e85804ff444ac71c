#!/usr/bin/env bash
# Set up .venv (once) and run the tests: tests/run.sh [--all] [PYTEST ARGUMENTS...]. Needs Python 3.11+ and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = "--all" ]; then
  shift
  export SEERCTL_TEST_ALL=1
fi
. examples/setup.sh ".[test,lint]"

workers="$(env -u OMP_NUM_THREADS nproc)"        # nproc would believe OMP_NUM_THREADS
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # several test processes share the cores
ruff check .
ruff format --check .
mypy
# Workers for the cores; files stay together, so that fixtures of a module are made once.
exec python -m pytest -n "$workers" --dist loadfile "$@"
