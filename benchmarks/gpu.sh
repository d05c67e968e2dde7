#!/usr/bin/env bash
# Use ten minutes of a machine with a GPU well: tests, throughput, DeiT's figure 1, and
# the study distillation_long, for which a processor is too slow.
#
#   bash benchmarks/gpu.sh --data cifar10-jpeg.tar.xz
#   bash benchmarks/gpu.sh --smoke      # on the CPU, at toy size, in about two minutes
#   bash benchmarks/gpu.sh --quick      # the same without torch.compile, in one
#
# --data PATH  CIFAR-10: a folder of train/CLASS/* and test/CLASS/*, or a tar archive of
#              these two, its path seen from the repository's root; in the smoke test
#              also fashion_mnist, which is there what is trained on if nothing is named
# -k WORDS     run only tests of such names, as pytest's -k
#
# OUT names the folder of the results (runs/gpu), WORK one of the study's runs, to go on
# with them in another call (one that is deleted in the end), WORKERS how many of them
# share the GPU (6), PYTHON the interpreter, which needs torch, torchvision, timm,
# tensorboard and pytest; vitutils need not be installed, and no network is needed. Each
# part has a limit, in seconds (LIMIT_TESTS, LIMIT_THROUGHPUT, LIMIT_SPEED, LIMIT_STUDY),
# and a record: a part that fails, or takes too long, costs the others nothing, and one
# with a limit of 0 is left out. The study gets what time is left.

set -u
cd "$(dirname "$0")/.." || exit

smoke='' quick='' data='' words=''
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) smoke=yes ;;
        --quick) smoke=yes quick=yes ;;
        --data) data=$2 && shift ;;
        -k) words=$2 && shift ;;
        *) echo "unknown option $1: see the head of $0" >&2 && exit 2 ;;
    esac
    shift
done

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
OUT=${OUT:-runs/gpu}
mkdir -p "$OUT" || exit
rm -f "$OUT"/{tests,throughput,speed,study}.{json,log} "$OUT/summary.txt"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# Runs write a state of some 200 MB an epoch: into memory, if there is enough.
free=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)
place=${TMPDIR:-/tmp}
if [ "${free:-0}" -gt 8000000 ]; then place=/dev/shm; fi
work=${WORK:-}
if [ -z "$work" ]; then
    work=$(mktemp -d -p "$place") && trap 'rm -rf "$work"' EXIT
fi

say() { echo "$*" | tee -a "$OUT/summary.txt"; }

failed=0
part() { # NAME LIMIT COMMAND...: run a part, its words in a log; tell how it ended
    local name=$1 limit=$2 start=$SECONDS status=0 word
    shift 2
    [ "$limit" -gt 0 ] || return 0
    # Ctrl-C is what Python ends in good order at, also where the shell ignores it.
    timeout --signal=INT --kill-after=10 "$limit" env --default-signal=INT "$@" \
        >"$OUT/$name.log" 2>&1 </dev/null || status=$?
    case $status in
        0) word=passed ;;
        124 | 137) word='timed out' ;;
        *) word="failed ($status)" ;;
    esac
    [ $status -eq 0 ] || failed=1
    tail -n 25 "$OUT/$name.log" | cut -c -200
    say "$(printf '%-11s %-11s %4d s of %s' "$name" "$word" $((SECONDS - start)) "$limit")"
}

# The machine.
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader \
    2>/dev/null || echo 'no NVIDIA driver')"
versions=$("$python" - <<'END'
import importlib.metadata as metadata
import platform
import torch

print("python", platform.python_version(), end="")
for name in ("torch", "torchvision", "timm", "transformers", "vit-pytorch"):
    try:
        print(f", {name} {metadata.version(name)}", end="")
    except metadata.PackageNotFoundError:
        print(f", no {name}", end="")
print(f", CUDA {torch.version.cuda}")
raise SystemExit(not torch.cuda.is_available())
END
)
usable=$?
say "$versions"
if [ $usable -ne 0 ] && [ -z "$smoke" ]; then
    say 'torch finds no GPU: --smoke tries the script without one' && exit 2
fi

compile=(--compile timm)
if [ -n "$smoke" ]; then
    export VITUTILS_CUDA_TESTS_ON=cpu CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1
    limits=("${LIMIT_TESTS:-300}" "${LIMIT_THROUGHPUT:-180}" "${LIMIT_SPEED:-60}"
        "${LIMIT_STUDY:-300}")
    words=${words:-not compiled and not torchrun}
    throughput=(--device cpu --sizes 28px_patch7 --batch 8 --rounds 1 --seconds 0.01
        --limit 60)
    speed=(--networks DeiT-Ti --batch 1 --rounds 1 --seconds 0)
    study=(--toy --workers "${WORKERS:-1}")
    if [ -n "$quick" ]; then compile=(); fi
    data=${data:-fashion_mnist}
else
    limits=("${LIMIT_TESTS:-90}" "${LIMIT_THROUGHPUT:-180}" "${LIMIT_SPEED:-50}")
    throughput=(--device cuda --modes train forward --seconds 0.2
        --limit $((limits[1] - 60)))
    speed=(--device cuda --dtype bf16 --batch 256 --rounds 3 --seconds 0.2)
    data=${data:-cifar10}
fi

part tests "${limits[0]}" "$python" benchmarks/cuda_tests.py -k "$words" \
    --record "$OUT/tests.json"
part throughput "${limits[1]}" "$python" benchmarks/throughput.py --dtypes bf16 \
    "${compile[@]}" "${throughput[@]}" --record "$OUT/throughput.json"
part speed "${limits[2]}" "$python" benchmarks/accuracy_and_speed.py "${speed[@]}" \
    --record "$OUT/speed.json"

if [ -z "$smoke" ]; then
    limits[3]=${LIMIT_STUDY:-$((585 - SECONDS))}
    study=(--workers "${WORKERS:-6}")
fi
if [ -f "$data" ] && [ "${limits[3]}" -gt 0 ]; then # an archive, unpacked once
    images=$work/$(basename "${data%%.tar*}")
    [ -d "$images" ] || "$python" -m tarfile -e "$data" "$images" || exit
    data=$images
fi
part study "${limits[3]}" "$python" -m experiments distillation_long --data "$data" \
    "${study[@]}" --folder "$work/study"
found=$work/study/distillation_long.json
if [ -f "$found" ]; then cp "$found" "$OUT/study.json"; fi

say "$SECONDS s in all"
exit $failed
