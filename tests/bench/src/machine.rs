//! The machine under it all: what it is, and what it holds.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cpu::parse_kib;
use crate::program::program;

/// Memory that one connection takes with both its sockets: measured 6.7 kB, with something to spare.
const CONNECTION_BYTES: u64 = 10_000;
/// What must be left beside them.
const RESERVE_BYTES: u64 = 1 << 30;

/// The kernel and the processors, in a few words.
pub(crate) fn describe() -> Result<String> {
    let kernel = rustix::system::uname();
    let processors = std::thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unnamed model");
    let release = kernel.release().to_string_lossy().into_owned();
    Ok(format!("Linux {release}, {processors} x {}", model.trim_start_matches([' ', '\t', ':'])))
}

/// Whether so many connections more would leave enough memory to others; if not, why.
pub(crate) fn lack_of_room(connections: usize) -> Result<Option<String>> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let free = parse_kib(&info, "MemAvailable:").context("/proc/meminfo has no MemAvailable")?;
    let free = room_in_cgroup().map_or(free, |room| free.min(room));
    let wanted = u64::try_from(connections)?.saturating_mul(CONNECTION_BYTES) + RESERVE_BYTES;
    let gigabytes = |bytes: u64| bytes.div_ceil(100_000_000);
    Ok((free < wanted).then(|| {
        let (wanted, free) = (gigabytes(wanted), gigabytes(free));
        format!(
            "it would take {}.{} GB of memory, of {}.{} GB available",
            wanted / 10,
            wanted % 10,
            free / 10,
            free % 10
        )
    }))
}

/// TCP sockets of all network namespaces: the kernel keeps them in one table, and walks over all of them.
pub(crate) fn count_sockets() -> Result<usize> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    parse_sockets(&text).with_context(|| format!("/proc/net/sockstat: {text:?}"))
}

fn parse_sockets(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|word| *word != "alloc").nth(1)?.parse().ok()
}

/// What the control group of a container still allows; none where it sets no limit that can be seen from here.
fn room_in_cgroup() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let files =
        [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")];
    files.into_iter().find_map(|(limit, used)| {
        let root = Path::new("/sys/fs/cgroup");
        Some(read(&root.join(limit))?.saturating_sub(read(&root.join(used))?))
    })
}

/// The first number with a dot that a program says of itself.
pub(crate) fn version_of(name: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = program(name).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    parse_version(&String::from_utf8_lossy(&text)).map(str::to_owned)
}

fn parse_version(text: &str) -> Option<&str> {
    let numbers = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let mut numbers = numbers.map(|number| number.trim_matches('.'));
    numbers.find(|number| number.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_of_all_namespaces_are_counted() {
        let text = "sockets: used 90\nTCP: inuse 5 orphan 0 tw 3 alloc 1234 mem 1\nUDP: inuse 0 mem 0\n";
        assert_eq!(parse_sockets(text), Some(1_234));
    }

    #[test]
    fn a_version_is_found_wherever_a_program_puts_it() {
        for (text, version) in [
            ("ss utility, iproute2-6.1.0, libbpf 1.1.2", Some("6.1.0")),
            ("net-tools 2.10\nFred Baumgarten ...", Some("2.10")),
            ("lsof version information:\n    revision: 4.95.0", Some("4.95.0")),
            ("Usage: collectd [OPTIONS]. See -h. 5\ncollectd 5.12.0.", Some("5.12.0")),
            ("no version ... at all", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
