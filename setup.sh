# shellcheck shell=sh
# Sets $python to a Python with the packages of $requirements (a file; default: requirements.txt),
# and defines `launch`. Sourced by train.sh, inference.sh and test.sh.
#
# A Python that has the packages is used as it is: the one named by PYTHON, else the active one (a
# conda environment, a container). Otherwise they are installed into .venv beside this file, or into
# the folder named by VENV, by uv where it is installed, else by venv and pip. Later runs only
# check.

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
requirements=$root/${requirements:-requirements.txt}
venv=${VENV:-$root/.venv}
unset PYTHONSAFEPATH  # the scripts import what lies beside them

stop() {
    printf '%s\n' "$1" >&2
    exit 2
}

for value in "${SM_CHANNEL_TRAIN:-}" "${SM_CHANNEL_EVAL:-}" "${SM_CHANNEL_MODEL:-}" \
    "${SM_MODEL_DIR:-}" "${SM_OUTPUT_DATA_DIR:-}" "$@"; do
    case $value in
        s3://* | --*=s3://*) stop "${0##*/}: $value is not a folder; give a local one, which \
SageMaker copies from and to S3 by itself (elsewhere: aws s3 sync)" ;;
    esac
done

# The pair of torch and torchvision for the oldest GPU and the driver found here. PyPI's torch from
# 2.8 on does not run below compute capability 7.5 (a V100 is 7.0), from 2.11 on it is that of CUDA
# 13, which needs driver 580, and 2.7.1 runs neither on Blackwell (10.0 and above) nor on Python
# 3.14. $limit is what any torch must satisfy.
gpus=$(nvidia-smi --query-gpu=compute_cap,driver_version --format=csv,noheader 2>/dev/null) || gpus=
oldest=$(printf '%s\n' "$gpus" | sort -n | head -n 1)
capability=$(printf '%s' "${oldest%%,*}" | tr -d '.')
driver=
case $oldest in *,*) driver=${oldest#*, } ;; esac
pair='torch==2.12.1 torchvision==0.27.1' limit=torch newest=3.14
case $capability in
    '' | *[!0-9]*) ;;
    *) if [ "$capability" -lt 75 ]; then
           pair='torch==2.7.1 torchvision==0.22.1' limit='torch<2.8' newest=3.13
       elif [ "${driver%%.*}" -lt 580 ] 2>/dev/null; then
           pair='torch==2.10.0 torchvision==0.25.0'
       fi
       [ "$capability" -lt 100 ] || limit='torch>=2.8' ;;
esac

# meets PYTHON: true if it has all requirements, torch and torchvision as a pair. Imports no torch.
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


pair = [line for line in requires("torchvision") if line.startswith("torch=")]
wanted = map(Requirement, [*lines(Path(sys.argv[1])), sys.argv[2], *pair])
met = all(r.specifier.contains(version(r.name), prereleases=True) for r in wanted)
sys.exit(not (met and sys.version_info >= (3, 11)))
PYTHON
}

# launch SCRIPT ARGUMENT...: one process, or with torchrun as many as SM_NUM_GPUS or --devices say.
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
        exec "$python" -P "$root/core/launch.py" --standalone --nproc_per_node="$devices" \
            "$script" "$@"
    fi
    exec "$python" "$script" "$@"
}

# between PYTHON [NEWEST]: true if it is Python 3.11 or newer, and no newer than NEWEST.
between() {
    "$1" -c 'import sys
newest = tuple(map(int, (sys.argv[1:] or ["9.0"])[0].split(".")))
sys.exit(not (3, 11) <= sys.version_info[:2] <= newest)' ${2:+"$2"} 2>/dev/null
}

# PIP_USER: pip.conf or the environment may ask for --user, which fails in a virtual environment.
install() {
    if [ "$made_by" = uv ]; then
        # shellcheck disable=SC2086  # $pair is two words
        uv pip install --quiet --python "$venv/bin/python" -r "$requirements" $pair
    else
        # shellcheck disable=SC2086
        PIP_USER=0 PIP_TARGET='' PIP_PREFIX='' "$venv/bin/python" -m pip install --quiet \
            --disable-pip-version-check -r "$requirements" $pair
    fi
}

# $venv/installing is there from before the first file to after the last, and holds the number of
# the process: found later, it means that another process is installing, or was interrupted.
make_venv() {
    made_by=pip
    ! command -v uv >/dev/null 2>&1 || made_by=uv
    [ -n "$python" ] || [ "$made_by" != uv ] || python=$newest  # uv finds or downloads it
    [ -n "$python" ] || stop "set-up: needs Python 3.11 to $newest for ${pair%% *}, found \
${too_new:-none}; install one, or name one: PYTHON=/path/to/python sh $0"
    if [ -e "$venv" ] && { [ -e "$venv/installing" ] || ! "$venv/bin/python" -c '' 2>/dev/null; }
    then
        other=$(cat "$venv/installing" 2>/dev/null) || other=
        if [ "${other:-$$}" != $$ ] && kill -0 "$other" 2>/dev/null; then
            stop "set-up: process $other is installing into $venv; wait until it is done (if that \
is another program, remove $venv/installing)"
        fi
        [ -e "$venv/installing" ] || [ -e "$venv/pyvenv.cfg" ] ||
            stop "set-up: $venv exists and is not a virtual environment; move it away"
        echo "set-up: making $venv anew, since its installation was interrupted"
        rm -rf "$venv" || stop "set-up: $venv cannot be removed; remove it and run this again"
    fi
    { mkdir -p "$venv" && echo $$ >"$venv/installing"; } 2>/dev/null ||
        stop "set-up: cannot write to $venv; name a folder that can hold 5 GB: VENV=/path sh $0"
    echo "set-up: installing into $venv with $made_by; about 5 GB and 2 to 10 minutes, once"
    if [ ! -x "$venv/bin/python" ]; then
        if [ "$made_by" = uv ]; then
            uv venv --quiet --allow-existing --python "$python" "$venv" ||
                stop "set-up: uv could not make $venv"
        else
            "$python" -m venv "$venv" || stop "set-up: $python has no venv; install it \
(Debian: apt install python3-venv) or uv"
        fi
    elif [ "$made_by" = pip ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$venv/bin/python" -m ensurepip >/dev/null ||
            stop "set-up: $venv has no pip; install uv, or remove $venv"
    fi
    install || stop "set-up: the packages could not be installed (see above); check the network \
and the disk space, then run this again"
    rm "$venv/installing"
    echo "set-up: done"
}

# find CANDIDATE...: the first that has the packages, in $found; the first that can get them, in
# $python; one that is too new for these packages, in $too_new.
find_python() {
    for candidate; do
        [ "$candidate" != "$venv/bin/python" ] || [ ! -e "$venv/installing" ] || continue
        between "$candidate" || continue
        if meets "$candidate"; then
            found=$candidate
            return
        elif between "$candidate" "$newest"; then
            [ "$candidate" = "$venv/bin/python" ] || python=${python:-$candidate}
        else
            too_new="only newer ones ($candidate)"
        fi
    done
}

python='' found='' too_new=''
if [ -n "${PYTHON:-}" ]; then
    find_python "$PYTHON" "$venv/bin/python"
else
    find_python python python3 "$venv/bin/python" python3.13 python3.12 python3.11 python3.14
fi
[ -n "$found" ] || make_venv
python=${found:-$venv/bin/python}
