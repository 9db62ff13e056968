//! The TLS material in force: read at the start, and again when its files change.
//!
//! Certificates live for months at the most, and whoever renews them replaces the files under a running agent: in
//! place, by a rename, or by a symbolic link that leads to another directory (as Kubernetes does). So the files are
//! compared with what they were through all links: identity, size and time of change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use vms_core::with_causes;

use super::validity::{Validity, shown_time};
use super::{ReadMaterial, read_material};
use crate::config::TlsFiles;
use crate::error::ExportError;
use crate::solo::Solo;

/// How often the files are looked at while a connection stands. It also bounds for how long a connection goes on under
/// a certificate that has been replaced, beside the time until the next request.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long looking may take, on a network file system say, before what is in force is used as it is.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// What connections are secured with. Clones are the same material.
#[derive(Debug, Clone)]
pub(crate) struct Material {
    shared: Arc<Shared>,
    looking: Solo<()>,
}

#[derive(Debug)]
struct Shared {
    files: TlsFiles,
    alpn: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ClientConfig>,
    client: Option<ClientCertificate>,
    /// Counts what was read; connections made under an earlier number are to be replaced.
    generation: u64,
    /// What the files were when that was read.
    stamps: Vec<Option<Stamp>>,
    /// What the files were when they did not hold, and what was told about it.
    refused: Option<(Vec<Option<Stamp>>, String)>,
    looked: Option<Instant>,
    told_outdated: bool,
}

/// What changes when a file is replaced or written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The certificate that is shown to the collector.
#[derive(Debug, Clone)]
pub(crate) struct ClientCertificate {
    path: PathBuf,
    validity: Validity,
}

impl Material {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// When a file is missing or does not hold what it should, or the key is not that of the certificate.
    pub(crate) fn read(files: &TlsFiles, alpn: &[u8]) -> Result<Self, ExportError> {
        let stamps = stamps(files);
        let ReadMaterial { config, client_validity } = read_material(files, alpn)?;
        let state = State {
            config,
            client: client_certificate(files, client_validity),
            generation: 0,
            stamps,
            refused: None,
            looked: None,
            told_outdated: false,
        };
        let shared = Shared { files: files.clone(), alpn: alpn.to_vec(), state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared), looking: Solo::default() })
    }

    /// What the next connection is to be made with, after a look at the files.
    pub(crate) async fn for_new_connection(&self) -> Arc<ClientConfig> {
        self.look().await;
        Arc::clone(&self.shared.state().config)
    }

    /// The number of what is in force, after a look at the files if the last is not recent.
    pub(crate) async fn generation(&self) -> u64 {
        let recent = self.shared.state().looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY);
        if !recent {
            self.look().await;
        }
        self.shared.state().generation
    }

    /// What to say of the client's certificate where a collector refused the connection: whether it is outdated, and
    /// the text.
    pub(crate) fn client_certificate(&self) -> Option<(bool, String)> {
        let client = self.shared.state().client.clone()?;
        Some(client.outdated(now()).map_or_else(
            || {
                let end = shown_time(client.validity.not_after);
                (false, format!("the client certificate {} is valid until {end}", client.path.display()))
            },
            |outdated| (true, outdated),
        ))
    }

    /// On a thread of its own, as files may be on a server that does not answer.
    async fn look(&self) {
        let shared = Arc::clone(&self.shared);
        let look = self.looking.run("tls-files", move || shared.look());
        // Without an answer in time, or without a thread, what is in force stays so.
        if timeout(LOOK_LIMIT, look).await.is_ok_and(|looked| looked.is_ok()) {
            self.shared.state().looked = Some(Instant::now());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again if they changed. What does not hold leaves what is in force.
    fn look(&self) {
        let stamps = stamps(&self.files);
        if self.is_known(&stamps) {
            self.tell_outdated();
            return;
        }
        // The lock is not held meanwhile: what is in force can be used.
        match read_material(&self.files, &self.alpn) {
            Ok(read) => {
                let mut state = self.state();
                state.config = read.config;
                state.client = client_certificate(&self.files, read.client_validity);
                state.generation += 1;
                state.stamps = stamps;
                state.refused = None;
                state.told_outdated = false;
                drop(state);
                tracing::info!(target: "vms_export", "TLS files changed and were read again: new connections use them");
            }
            Err(error) => {
                let text = with_causes(&error);
                let told = self.state().refused.replace((stamps, text.clone()));
                if told.is_none_or(|(_, told)| told != text) {
                    tracing::warn!(
                        target: "vms_export",
                        "TLS files changed and cannot be used: {text}; what was read before stays in force; put certificate, \
                         key and CA in place as a whole, they are read again by themselves"
                    );
                }
            }
        }
        self.tell_outdated();
    }

    fn is_known(&self, stamps: &[Option<Stamp>]) -> bool {
        let mut state = self.state();
        if state.stamps == stamps {
            state.refused = None;
            return true;
        }
        state.refused.as_ref().is_some_and(|(refused, _)| refused == stamps)
    }

    /// Tells once that the client's certificate is outdated: a collector that refuses it may not say why.
    fn tell_outdated(&self) {
        let mut state = self.state();
        let Some(text) = state.client.as_ref().and_then(|client| client.outdated(now())) else { return };
        if !std::mem::replace(&mut state.told_outdated, true) {
            drop(state);
            tracing::warn!(target: "vms_export", "{text}; {RENEW}");
        }
    }
}

/// What to do about a client's certificate that is outdated.
pub(crate) const RENEW: &str = "renew the client certificate and its key, or correct this host's clock; the files are read again by themselves";

impl ClientCertificate {
    /// What is wrong with its dates, if anything is.
    fn outdated(&self, now: u64) -> Option<String> {
        let path = self.path.display();
        let Validity { not_before, not_after } = self.validity;
        if now > not_after {
            Some(format!("the client certificate {path} expired on {}", shown_time(not_after)))
        } else if now < not_before {
            Some(format!("the client certificate {path} is not valid before {}", shown_time(not_before)))
        } else {
            None
        }
    }
}

/// The time by which certificates are judged, in seconds since 1970; 0 where the clock is not set.
fn now() -> u64 {
    DefaultTimeProvider.current_time().map_or(0, |time| time.as_secs())
}

fn client_certificate(files: &TlsFiles, validity: Option<Validity>) -> Option<ClientCertificate> {
    let path = files.client_certificate.clone()?;
    Some(ClientCertificate { path, validity: validity? })
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let roots = match &files.ca {
        Some(path) => vec![path.clone()],
        None => trust_stores(),
    };
    let own = [&files.client_certificate, &files.client_key].into_iter().flatten().cloned();
    roots.into_iter().chain(own).map(|path| stamp(&path)).collect()
}

/// Where the system keeps its roots: a bundle, and directories that change when a certificate comes or goes.
#[must_use]
pub fn trust_stores() -> Vec<PathBuf> {
    let places = openssl_probe::probe();
    places.cert_file.into_iter().chain(places.cert_dir).collect()
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests;
