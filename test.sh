#!/bin/sh
# Sets up and runs the checks: ruff, then the tests. Arguments go on to pytest:
#     sh test.sh -k split
set -eu
requirements="requirements-test.txt"
. "$(dirname -- "$0")/setup.sh"
cd "$root"
"$python" -m ruff format --check .
"$python" -m ruff check .
exec "$python" -m pytest -q "$@"
