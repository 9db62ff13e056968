//! TLS material. It is read at the start, so that a fault in it is a fault of the configuration and not of the network,
//! and again when its files change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::TlsFiles;
use crate::error::ExportError;

pub use material::trust_stores;
pub(crate) use material::{Material, RENEW};
pub(crate) use validity::{Validity, shown_time};

mod material;
mod validity;

/// A file and what it holds.
struct PemFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// What the files held.
struct ReadMaterial {
    /// The client's side of TLS.
    config: Arc<ClientConfig>,
    /// When the client's own certificate is valid, where there is one that says so.
    client_validity: Option<Validity>,
}

/// Reads the configured files and makes the client's side of TLS from them, offering `alpn` alone.
///
/// # Errors
/// When a file is missing or does not hold what it should, or the key is not that of the certificate.
fn read_material(files: &TlsFiles, alpn: &[u8]) -> Result<ReadMaterial, ExportError> {
    let roots = match &files.ca {
        Some(path) => parse_roots(&read_file(path)?)?,
        None => read_system_roots()?,
    };
    let identity = match (&files.client_certificate, &files.client_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((read_file(certificate)?, read_file(key)?)),
        (Some(path), None) => {
            let problem = "a client certificate needs its private key, and none is configured";
            return Err(ExportError::TlsPair { path: path.clone(), problem });
        }
        (None, Some(path)) => {
            let problem = "a client key needs its certificate, and none is configured";
            return Err(ExportError::TlsPair { path: path.clone(), problem });
        }
    };
    parse_client_config(roots, identity, alpn)
}

fn parse_client_config(
    roots: RootCertStore,
    identity: Option<(PemFile, PemFile)>,
    alpn: &[u8],
) -> Result<ReadMaterial, ExportError> {
    let mut client_validity = None;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ExportError::Tls)?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = parse_certificates(&certificate)?;
            let parsed_key = parse_key(&key)?;
            client_validity = chain.first().and_then(|own| Validity::read(own));
            builder.with_client_auth_cert(chain, parsed_key).map_err(|error| {
                let problem = match error {
                    rustls::Error::InconsistentKeys(_) => "not the private key of the client certificate",
                    _ => "not usable as the private key of the client certificate",
                };
                ExportError::TlsMaterial { path: key.path, problem, source: Some(error) }
            })?
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(ReadMaterial { config: Arc::new(config), client_validity })
}

fn parse_roots(file: &PemFile) -> Result<RootCertStore, ExportError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(file)? {
        roots.add(certificate).map_err(|error| ExportError::TlsMaterial {
            path: file.path.clone(),
            problem: "holds a certificate that cannot be a CA's",
            source: Some(error),
        })?;
    }
    Ok(roots)
}

fn parse_certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, ExportError> {
    let refuse = |problem| ExportError::TlsMaterial { path: file.path.clone(), problem, source: None };
    let certificates = CertificateDer::pem_slice_iter(&file.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_malformed| refuse("not well-formed PEM"))?;
    if certificates.is_empty() {
        return Err(refuse("holds no PEM block CERTIFICATE"));
    }
    Ok(certificates)
}

fn parse_key(file: &PemFile) -> Result<PrivateKeyDer<'static>, ExportError> {
    PrivateKeyDer::from_pem_slice(&file.bytes).map_err(|_malformed| {
        let encrypted = file.bytes.windows(9).any(|window| window == b"ENCRYPTED");
        let problem = if encrypted {
            "the private key is encrypted; keep it unencrypted, readable by the agent alone"
        } else {
            "holds no PEM block PRIVATE KEY"
        };
        ExportError::TlsMaterial { path: file.path.clone(), problem, source: None }
    })
}

fn read_file(path: &Path) -> Result<PemFile, ExportError> {
    match fs::read(path) {
        Ok(bytes) => Ok(PemFile { path: path.to_owned(), bytes }),
        Err(source) => Err(ExportError::TlsFile { path: path.to_owned(), source }),
    }
}

/// The system's trust store; `SSL_CERT_FILE` and `SSL_CERT_DIR` move it, as they do for OpenSSL.
fn read_system_roots() -> Result<RootCertStore, ExportError> {
    let mut roots = RootCertStore::empty();
    // Stores of real systems hold a few certificates that no verifier takes: they are left out, as elsewhere.
    let (added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(ExportError::NoSystemRoots) } else { Ok(roots) }
}

#[cfg(test)]
mod tests;
