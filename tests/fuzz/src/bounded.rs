//! How much memory a decoder may take.

/// Runs what decodes, and holds it to at most `times` the bytes of its input and a `constant`, at any one moment.
///
/// Only what Rust allocates is counted: zstd, which is C, is held to the limit of the whole process.
pub(crate) fn bounded<T>(input: &[u8], times: u64, constant: u64, decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let taken = allocation_counter::measure(|| decoded = Some(decode())).bytes_max;
    let length = u64::try_from(input.len()).unwrap_or(u64::MAX);
    let limit = constant.saturating_add(length.saturating_mul(times));
    assert!(taken <= limit, "{taken} bytes of memory for {length} bytes of input, and {limit} are allowed");
    decoded.expect("it was run")
}
