# Sourced by quickstart.sh and tests/run.sh: make .venv if it is missing, install seerctl from this checkout if it or
# pyproject.toml is new, activate. Usage: . examples/setup.sh "."  or  . examples/setup.sh ".[test,lint]"
if [ ! -x .venv/bin/python ]; then
  for python in python3.13 python3.12 python3.11 python3 ""; do
    [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
  done
  [ -n "$python" ] || { echo "setup: Python 3.11 or newer is needed" >&2; exit 7; }
  echo "setup: making .venv with $("$python" --version)" >&2
  "$python" -m venv .venv
fi
. .venv/bin/activate
if ! [ .venv/installed -nt pyproject.toml ] || { [ "$1" != . ] && ! grep -qxF -- "$1" .venv/installed; }; then
  echo "setup: installing seerctl and what it needs (minutes, some 5 GB with torch's CUDA libraries)" >&2
  python -m pip install --quiet --disable-pip-version-check --editable "$1" >&2
  echo "$1" >>.venv/installed
fi
