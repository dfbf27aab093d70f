#!/usr/bin/env bash
# One script for a GPU that is lent for minutes: CUDA tests, benchmark rows, then the trainings of gpu.yml.
#
#     python -m experiments.small_model.recipe --recipe experiments/small_model/pack.yml --set faces=FOLDER    # beforehand
#     bash experiments/small_model/gpu.sh OUTPUT MINUTES [options of recipe.py]
#
# Networks, states and logs are in OUTPUT at the end, also where a part failed; the exit code is that of the trainings.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$1 minutes=$2
shift 2
mkdir -p "$out"
if [ "${SKIP_TESTS:-}" = '' ]; then
    timeout 120 python -m pytest -m gpu -n 0 >"$out/cuda_tests.log" 2>&1
    tail -n 1 "$out/cuda_tests.log"
    timeout 90 python scripts/benchmark.py --only forward --csv "$out/performance.csv" --page "$out/performance.md" >"$out/benchmark.log" 2>&1
fi
python -m experiments.small_model.recipe --recipe experiments/small_model/gpu.yml --minutes "$minutes" "$@" 2>&1 | tee "$out/train.log"
code=$?
cp experiments/ID_CodeFormer_256_stage3/models/net_?_latest.pth experiments/released/*.safetensors "$out/"
exit $code
