//! "Did you mean": the name that was probably meant.

/// The candidate that is the same but for case and separators, or else the nearest one that is near enough.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = normalize(given);
    // A third of the letters wrong is a misspelling; more is another word.
    let tolerance = (given.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&given, &normalize(candidate)), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters and digits, in lower case: `queueBytes`, `QUEUE_BYTES` and `queue-bytes` are one name.
pub(super) fn normalize(name: &str) -> String {
    // Bounded: the distance costs the product of the lengths.
    name.chars().take(256).filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests;
