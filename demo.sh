#!/bin/sh
# Sets up and shows the page of demo.py. Arguments go on to it:   sh demo.sh --name swin
set -eu
. "$(dirname -- "$0")/setup.sh"
exec "$python" "$root/demo.py" "$@"
