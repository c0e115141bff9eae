# Sets $python to a Python that meets $requirements (a file; requirements.txt if unset), and gives `launch`.
# Sourced by train.sh, inference.sh and test.sh.
#
# The current Python serves if it meets them already (a conda environment, a container); else .venv beside this file, made by uv
# where it is installed, else by venv and pip. Done again it only looks; after an interruption it makes .venv anew.

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
requirements=$root/${requirements:-requirements.txt}
venv=$root/.venv

stop() {
    printf '%s\n' "$1" >&2
    exit 2
}

# The pair of torch and torchvision for the oldest GPU here: from CUDA 13 on, PyPI's torch does not run below compute capability
# 7.5 (a V100 is 7.0), and torch 2.7.1 does not run on Blackwell (10.0 and above). $limit is what any torch must satisfy.
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -n | head -n 1 | tr -d '.') || capability=
case $capability in
    '' | *[!0-9]*) pair='torch==2.12.1 torchvision==0.27.1' limit='torch' ;;
    *) if [ "$capability" -lt 75 ]; then pair='torch==2.7.1 torchvision==0.22.1' limit='torch<2.8'
       elif [ "$capability" -ge 100 ]; then pair='torch==2.12.1 torchvision==0.27.1' limit='torch>=2.8'
       else pair='torch==2.12.1 torchvision==0.27.1' limit='torch'
       fi ;;
esac

# meets PYTHON: whether all requirements are installed there, torch and torchvision as a pair; nothing heavy is imported.
meets() {
    "$1" - "$requirements" "$limit" 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement


def lines(path):
    for line in path.read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r"):
            yield from lines(path.parent / line[2:].strip())
        elif line:
            yield line


wanted = [*lines(Path(sys.argv[1])), sys.argv[2], *(line for line in requires("torchvision") if line.startswith("torch="))]
met = all(r.specifier.contains(version(r.name), prereleases=True) for r in map(Requirement, wanted))
sys.exit(not (met and sys.version_info >= (3, 11)))
PYTHON
}

# launch SCRIPT ARGUMENT...: one process, or by torchrun as many as SM_NUM_GPUS or --devices say.
launch() {
    script=$root/$1
    shift
    devices=${SM_NUM_GPUS:-1}
    previous=
    for argument; do
        case $argument in --devices=*) devices=${argument#*=} ;; esac
        [ "$previous" != --devices ] || devices=$argument
        previous=$argument
    done
    if [ "$devices" -gt 1 ] 2>/dev/null; then
        exec "$python" -m torch.distributed.run --standalone --nproc_per_node="$devices" "$script" "$@"
    fi
    exec "$python" "$script" "$@"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install() {
    if [ "$made_by" = uv ]; then
        # shellcheck disable=SC2086  # $pair is two words
        uv pip install --quiet --python "$venv/bin/python" -r "$requirements" $pair
    else
        # shellcheck disable=SC2086
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" $pair
    fi
}

# .venv/installing stands there from before the first file to after the last: found at the start, it tells of an interruption.
make_venv() {
    [ -n "$python" ] || stop "set-up: needs Python 3.11 or newer, and found none; install it, or name one: PYTHON=/path/to/python sh $0"
    if [ -e "$venv" ] && { [ -e "$venv/installing" ] || ! "$venv/bin/python" -c '' 2>/dev/null; }; then
        [ -e "$venv/installing" ] || [ -e "$venv/pyvenv.cfg" ] || stop "set-up: $venv is there and is no virtual environment; move it away"
        echo "set-up: making $venv anew, since it was not finished"
        rm -rf "$venv"
    fi
    made_by=pip
    ! command -v uv >/dev/null 2>&1 || made_by=uv
    echo "set-up: installing into $venv with $made_by; the first time about 5 GB and 2 to 10 minutes"
    mkdir -p "$venv"
    : >"$venv/installing"
    if [ ! -x "$venv/bin/python" ]; then
        if [ "$made_by" = uv ]; then
            uv venv --quiet --allow-existing --python "$python" "$venv" || stop "set-up: uv could not make $venv"
        else
            "$python" -m venv "$venv" || stop "set-up: $python has no venv; install it (Debian: apt install python3-venv) or uv"
        fi
    elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        [ "$made_by" = uv ] || "$venv/bin/python" -m ensurepip >/dev/null || stop "set-up: $venv has no pip; install uv, or remove $venv"
    fi
    install || stop "set-up: the packages could not be installed (see above); with the network and the disk in order, run this again"
    rm "$venv/installing"
    echo "set-up: done"
}

python=
for candidate in ${PYTHON:-python python3 python3.13 python3.12 python3.11}; do
    if new_enough "$candidate"; then
        python=${python:-$candidate}
        if meets "$candidate"; then
            found=$candidate
            break
        fi
    fi
done
if [ -n "${found:-}" ]; then
    python=$found
elif [ ! -e "$venv/installing" ] && meets "$venv/bin/python"; then
    python=$venv/bin/python
else
    make_venv
    python=$venv/bin/python
fi
