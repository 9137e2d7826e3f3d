//! Certificates and keys from PEM files.
//! Rules: a file is read whole and small; keys are not encrypted (the file's rights protect them).
//! Errors: `TlsError` with the file and what to do.

use super::TlsError;
use crate::limits;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate with its chain and key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The end of the first certificate of the chain to end.
    pub(super) expires_at: SystemTime,
}

/// Reads a certificate with its chain, and its key.
pub(super) fn identity(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
    let chain = certificates(cert)?;
    let mut expires_at = None;
    for certificate in &chain {
        let end = validity(certificate).map_err(|why| TlsError::new(format!("{}: {why}", cert.display()), "replace the certificate"))?.1;
        expires_at = Some(expires_at.map_or(end, |first: SystemTime| first.min(end)));
    }
    let key = private_key(key)?;
    Ok(Identity { chain, key, expires_at: expires_at.unwrap_or(UNIX_EPOCH) })
}

/// Reads the certificates of authorities, at least one.
pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(file)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError::new(
            format!("{} has no certificate", file.display()),
            "use a PEM file with BEGIN CERTIFICATE in it (convert DER with openssl x509)",
        )),
        Err(error) => Err(TlsError::new(format!("{} is no sound PEM file: {error}", file.display()), "replace the file")),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(file)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
        if encrypted.iter().any(|sign| memchr::memmem::find(&bytes, sign).is_some()) {
            return TlsError::new(
                format!("the key in {} is encrypted", file.display()),
                "decrypt it (openssl pkey) and protect the file by its rights",
            );
        }
        TlsError::new(format!("{} has no private key: {error}", file.display()), "use a PEM file with BEGIN PRIVATE KEY in it")
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let limit = limits::PEM_BYTES_MAX;
    std::fs::File::open(file)
        .and_then(|opened| opened.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| TlsError::new(format!("{} cannot be read: {error}", file.display()), "check the path and who may read it"))?;
    if bytes.len() as u64 > limit {
        return Err(TlsError::new(format!("{} is larger than {} MiB", file.display(), limit >> 20), "is this the PEM file?"));
    }
    Ok(bytes)
}

/// Beginning and end of a certificate.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok((at(parsed.validity().not_before.timestamp()), at(parsed.validity().not_after.timestamp())))
}

/// A certificate and a key that rustls does not take together.
pub(super) fn mismatch(cert: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    let (cert, key) = (cert.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::new(
            format!("{key} is not the key of the certificate in {cert}"),
            "use the key that the certificate was made for, and put the own certificate first in the chain",
        ),
        other => TlsError::new(format!("{cert} and {key} cannot be used: {other}"), "use a key of RSA 2048 up, ECDSA P-256 or P-384, or Ed25519"),
    }
}
