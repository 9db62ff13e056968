#!/usr/bin/env bash
# Runs each target, or those named, for so many seconds or executions, and tells what came of it.
# usage: run.sh TARGET_DIR [TARGET...]    with FUZZ_SECONDS and FUZZ_RUNS (0 and -1: without limit) in the environment
set -euo pipefail
target_dir=$1
shift
root=$(cd "$(dirname "$0")" && pwd)
work=$target_dir/fuzz

# The profile that the whole-agent tests are built with, so that most is there already. There is no sanitizer: memory is safe by
# the lints, and what a target holds memory to, it counts itself.
RUSTC_WORKSPACE_WRAPPER=$root/instrument.sh CARGO_TARGET_DIR=$target_dir \
    cargo build --locked --profile fast --package vms-fuzz --features libfuzzer --bins

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for target in "$root"/fuzz_targets/*.rs; do targets+=("$(basename "$target" .rs)"); done
fi
findings=0
for target in "${targets[@]}"; do
    # What is new goes there; what is committed is only read.
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    log=$work/$target.log
    options=(-max_total_time="${FUZZ_SECONDS:-60}" -runs="${FUZZ_RUNS:--1}" -timeout=10 -rss_limit_mb=1024 -max_len=2048
        -artifact_prefix="$work/artifacts/$target/" -print_final_stats=1)
    dictionary=$root/dictionaries/$target.dict
    [ ! -e "$dictionary" ] || options+=(-dict="$dictionary")
    status=0
    "$target_dir/fast/$target" "$work/corpus/$target" "$root/corpus/$target" "${options[@]}" >"$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    seconds=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    if [ "$status" -eq 0 ]; then
        echo "$target: ${executions:-0} executions in ${seconds:-0} s, ${covered:-0} edges, no finding"
    else
        findings=$((findings + 1))
        echo "$target: a finding after ${executions:-?} executions; see $log"
        sed -n 's/.*Test unit written to /    reproducer: /p' "$log"
    fi
done
exit $((findings > 0))
