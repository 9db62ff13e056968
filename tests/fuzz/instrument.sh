#!/usr/bin/env bash
# Cargo's RUSTC_WORKSPACE_WRAPPER: compiles the workspace's own crates so that libFuzzer sees which edges an input takes and
# what it is compared with. LLVM does that in any toolchain; what comes from elsewhere is compiled as ever.
case " $* " in
*' --crate-name '*)
    exec "$@" -Copt-level=2 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
