#!/bin/sh
# Sets up and predicts with the latest run. Flags go on to inference.py:
#     SM_CHANNEL_EVAL=/data/eval sh inference.sh --name swin
set -eu
. "$(dirname -- "$0")/setup.sh"
launch inference.py "$@"
