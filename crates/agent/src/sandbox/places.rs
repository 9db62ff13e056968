//! Which files the runtime's threads use: passed to Landlock as lists.

use std::path::{Path, PathBuf};

use vms_core::namespace::Namespaces;

use crate::config::{Config, Exporter};
use crate::environment::Environment;

/// What may be read, and written, once the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Files, and directories with all below.
    pub(super) read: Vec<PathBuf>,
    /// Directories of which the names of what is in them may be read, and no file.
    pub(super) list: Vec<PathBuf>,
    /// Directories in which files may be made, changed and removed; those have to exist.
    pub(super) write: Vec<PathBuf>,
    /// The configured files that are read again while the agent runs.
    pub(super) to_read_again: Vec<PathBuf>,
}

/// What resolving names, trusting certificates and describing the host takes on any system; what is not there does no
/// harm.
///
/// All of `/etc`: what describes the network there is replaced, by renaming, whenever the network changes, and a rule
/// for a file dies with the file.
pub(super) const SYSTEM: [&str; 14] = [
    "/etc",
    // Modules of the name service, and where distributions keep certificates and the defaults of /etc.
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share",
    "/run/systemd/resolve",
    "/var/run/secrets/kubernetes.io",
    // Limits of the CPU, and network interfaces.
    "/sys",
    "/dev/null",
    // Random numbers, for what does not find getrandom(2): a statically linked program looks its C library's up in vain.
    "/dev/random",
    "/dev/urandom",
];

/// Directories that hold more than one program's files: a configured file in one of these is let be read by itself.
const SHARED: [&str; 18] = [
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/run/secrets",
    "/srv",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/tmp",
];

impl Places {
    /// For that configuration.
    ///
    /// `file` and `secrets` are what it was read from; `spool` is the directory of what waits.
    pub(crate) fn new(
        config: &Config,
        file: Option<&Path>,
        secrets: &[PathBuf],
        spool: Option<PathBuf>,
        environment: &Environment,
    ) -> Self {
        let mut to_read_again: Vec<PathBuf> =
            file.map(Path::to_owned).into_iter().chain(secrets.iter().cloned()).collect();
        let exports = match &config.exporter {
            Exporter::Otlp(export) => vec![export, &config.self_telemetry.export],
            Exporter::Console | Exporter::None => vec![&config.self_telemetry.export],
        };
        for export in exports {
            let tls = &export.tls;
            to_read_again
                .extend([&tls.ca, &tls.client_certificate, &tls.client_key].into_iter().flatten().cloned());
        }
        to_read_again.sort();
        to_read_again.dedup();

        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        // Where names are resolved from, when /etc only points to it.
        read.extend(around(Path::new("/etc/resolv.conf")));
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            // OpenSSL's list of directories is separated by colons.
            let named = environment.get(variable).into_iter().flat_map(|paths| paths.split(':'));
            read.extend(named.flat_map(|path| trusted(Path::new(path))));
        }
        read.extend(vms_export::trust_stores().iter().flat_map(|store| trusted(store)));
        read.extend(["/proc".into(), config.proc_root.clone()]);
        read.extend(to_read_again.iter().flat_map(|file| around(file)));
        read.sort();
        read.dedup();
        // There are logs of pods in it, and only what pods are called is wanted.
        let names_pods = config.terms.namespaces == Namespaces::All;
        let list = names_pods.then(|| config.pod_logs_root.clone()).into_iter().collect();
        Self { read, list, write: spool.into_iter().collect(), to_read_again }
    }
}

/// What has to be readable so that a trust store is: the file or directory, where either leads to, and where the links within
/// the directory lead to. Distributions keep what is merged out of `/etc`.
fn trusted(store: &Path) -> Vec<PathBuf> {
    if !store.is_dir() {
        return if store.exists() { around(store) } else { Vec::new() };
    }
    let links = std::fs::read_dir(store).into_iter().flatten().flatten();
    let links = links.filter(|item| item.file_type().is_ok_and(|kind| kind.is_symlink()));
    let targets = links.filter_map(|item| item.path().canonicalize().ok());
    let mut directories: Vec<PathBuf> =
        targets.filter_map(|target| target.parent().map(Path::to_owned)).collect();
    directories.sort();
    directories.dedup();
    directories.retain(|directory| !SHARED.iter().any(|shared| Path::new(shared) == directory));
    directories.push(store.to_owned());
    directories
}

/// What has to be readable so that a file is, also after it was replaced: its directory, and that of the file that it leads
/// to. A `ConfigMap` is replaced by turning a symbolic link in the former around, a certificate by one to the latter.
fn around(file: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_unknown| file.to_owned());
    let target = absolute.canonicalize().unwrap_or_else(|_gone| absolute.clone());
    let named = absolute
        .parent()
        .and_then(|directory| directory.canonicalize().ok())
        .map(|directory| (directory, absolute.clone()));
    let real = target.parent().map(|directory| (directory.to_owned(), target.clone()));
    named
        .into_iter()
        .chain(real)
        .map(
            |(directory, file)| {
                if SHARED.iter().any(|shared| Path::new(shared) == directory) { file } else { directory }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests;
