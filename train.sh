#!/bin/sh
# Sets up and trains. Flags go on to train.py:
#     SM_CHANNEL_TRAIN=/data/train sh train.sh --name swin
# Without SM_CHANNEL_TRAIN or --data_dir it generates synthetic faces (the sample set) to train on.
set -eu
. "$(dirname -- "$0")/setup.sh"

recipe='--recipe sample'
own_data=${SM_CHANNEL_TRAIN:-}
[ ! -d /opt/ml/input/data/train ] || own_data=yes
for argument; do
    case $argument in --data_dir | --data_dir=* | -h | --help) own_data=yes ;; esac
    case $argument in --recipe | --recipe=*) recipe= ;; esac
done

if [ -z "$own_data" ]; then
    "$python" "$root/prepare.py" sample sample
    set -- --data_dir sample/train $recipe "$@"
fi
launch train.py "$@"
