//! What a call took, counted where the kernel was asked.

/// What one call of [`crate::ProcReader`] took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// How often all processes were listed.
    pub listings: usize,
    /// How often a process was opened by its number.
    pub opened: usize,
    /// How often the names of a process were read; those of one process can be read twice.
    pub names: usize,
    /// How many processes were only asked whether they run, by their number.
    pub glances: usize,
    /// How many processes were asked what they use.
    pub usages: usize,
    /// How many known descriptors were looked at again.
    pub rechecks: usize,
    /// How many sockets were found among descriptors, wanted or not.
    pub sockets: usize,
}
