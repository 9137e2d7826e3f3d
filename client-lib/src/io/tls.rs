//! TLS for listeners and endpoints: rustls with the aws-lc-rs provider passed explicitly, TLS 1.2 and 1.3, suites of BCP 195 (RFC 9325).
//! Rules: nothing is switched off silently (`verify = "none"` shows in the status); `reload` replaces certificates for new connections only and
//! keeps the old ones when the new ones do not load; a new configuration has new ticket keys, so no session outlives the certificates it began with.
//! Errors: `TlsError` says which file and what to do; `TlsFault` says why a handshake failed.

mod check;
mod explain;
mod files;

pub use explain::{explain, refused};

use crate::config::{TlsClient, TlsServer, Verify};
use crate::io::stream::{Stream, prepare};
use arc_swap::ArcSwap;
use files::{Identity, authorities, identity};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Why settings did not load.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct TlsError {
    /// What is wrong, with the file.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl TlsError {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Why a handshake failed, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsFault(pub String);

static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The suites of RFC 9325: forward secrecy and AEAD only. Passed explicitly everywhere: a provider that some other crate installs must not change ours.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        use aws_lc_rs::cipher_suite as suite;
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                suite::TLS13_AES_256_GCM_SHA384,
                suite::TLS13_AES_128_GCM_SHA256,
                suite::TLS13_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(make).clone()
}

/// What was read, until the next reload.
struct Loaded<C> {
    config: Arc<C>,
    expires_at: Option<SystemTime>,
}

struct Client {
    settings: TlsClient,
    /// Expected in the peer's certificate, and sent as SNI.
    name: ServerName<'static>,
    loaded: ArcSwap<Loaded<ClientConfig>>,
}

/// TLS towards an endpoint. Clones share the certificates and their reload.
#[derive(Clone)]
pub struct ClientTls(Arc<Client>);

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.0.settings).finish()
    }
}

impl ClientTls {
    /// Reads the files. `host` is the name expected in the peer's certificate unless `server_name` is set.
    /// # Errors
    /// `TlsError`.
    pub fn load(settings: &TlsClient, host: &str) -> Result<ClientTls, TlsError> {
        let expected = settings.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(expected.to_owned()).map_err(|_| {
            TlsError::new(format!("\"{expected}\" cannot be a name in a certificate"), "set `server_name` to the name in the endpoint's certificate")
        })?;
        let loaded = ArcSwap::from_pointee(load_client(settings)?);
        Ok(ClientTls(Arc::new(Client { settings: settings.clone(), name, loaded })))
    }

    /// Reads the files again; new connections use what was read.
    /// # Errors
    /// `TlsError`: the old ones stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.loaded.store(Arc::new(load_client(&self.0.settings)?));
        Ok(())
    }

    /// When our own certificate ends, if we have one.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.loaded.load().expires_at
    }

    /// Whether the peer's certificate is not checked at all.
    #[must_use]
    pub fn unchecked(&self) -> bool {
        self.0.settings.verify == Verify::None
    }

    /// Makes the handshake. The caller brings the deadline.
    /// # Errors
    /// `TlsFault`.
    pub async fn connect(&self, tcp: TcpStream) -> Result<Stream, TlsFault> {
        let fault = |error: std::io::Error| TlsFault(explain(&error));
        prepare(&tcp).map_err(fault)?;
        let connector = TlsConnector::from(self.0.loaded.load().config.clone());
        let tls = connector.connect(self.0.name.clone(), tcp).await.map_err(fault)?;
        Stream::client(tls).map_err(fault)
    }
}

fn load_client(settings: &TlsClient) -> Result<Loaded<ClientConfig>, TlsError> {
    let authorities = match (&settings.ca, settings.verify) {
        (_, Verify::None) => None,
        (Some(file), _) => Some(authorities(file)?),
        (None, _) => return Err(TlsError::new("`tls` has no `ca`", "add the PEM file of the endpoint's authority, or of its own certificate")),
    };
    let check = check::ServerCheck::new(authorities, settings.verify, &provider())?;
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).map_err(|error| broken(&error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(check));
    let (config, expires_at) = match &settings.identity {
        None => (builder.with_no_client_auth(), None),
        Some((cert, key)) => {
            let Identity { chain, key: secret, expires_at } = identity(cert, key)?;
            (builder.with_client_auth_cert(chain, secret).map_err(|error| files::mismatch(cert, key, &error))?, Some(expires_at))
        }
    };
    Ok(Loaded { config: Arc::new(config), expires_at })
}

/// TLS towards a server whose certificate these authorities vouch for, for its name; nothing of our own is shown.
/// # Errors
/// `TlsError`.
pub(crate) fn authorities_only(ca: &Path) -> Result<ClientConfig, TlsError> {
    let settings = TlsClient { ca: Some(ca.to_owned()), identity: None, server_name: None, verify: Verify::Full };
    Ok(load_client(&settings)?.config.as_ref().clone())
}

struct Server {
    settings: TlsServer,
    loaded: ArcSwap<Loaded<ServerConfig>>,
}

/// TLS of a listener. Clones share the certificates and their reload.
#[derive(Clone)]
pub struct ServerTls(Arc<Server>);

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.0.settings).finish()
    }
}

impl ServerTls {
    /// Reads the files.
    /// # Errors
    /// `TlsError`.
    pub fn load(settings: &TlsServer) -> Result<ServerTls, TlsError> {
        let loaded = ArcSwap::from_pointee(load_server(settings)?);
        Ok(ServerTls(Arc::new(Server { settings: settings.clone(), loaded })))
    }

    /// Reads the files again; new connections use what was read.
    /// # Errors
    /// `TlsError`: the old ones stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.loaded.store(Arc::new(load_server(&self.0.settings)?));
        Ok(())
    }

    /// When the certificate ends.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.loaded.load().expires_at
    }

    /// Makes the handshake. The caller brings the deadline.
    /// # Errors
    /// `TlsFault`.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Stream, TlsFault> {
        let fault = |error: std::io::Error| TlsFault(explain(&error));
        prepare(&tcp).map_err(fault)?;
        let acceptor = TlsAcceptor::from(self.0.loaded.load().config.clone());
        let tls = acceptor.accept(tcp).await.map_err(fault)?;
        Stream::server(tls).map_err(fault)
    }
}

fn load_server(settings: &TlsServer) -> Result<Loaded<ServerConfig>, TlsError> {
    let Identity { chain, key, expires_at } = identity(&settings.cert, &settings.key)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).map_err(|error| broken(&error))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => builder.with_client_cert_verifier(check::ClientCheck::new(authorities(file)?, &provider())?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| files::mismatch(&settings.cert, &settings.key, &error))?;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| broken(&error))?;
    config.max_early_data_size = 0;
    Ok(Loaded { config: Arc::new(config), expires_at: Some(expires_at) })
}

/// Something that only a fault of this program or its libraries can bring about.
fn broken(error: &rustls::Error) -> TlsError {
    TlsError::new(format!("TLS could not be set up: {error}"), "report this to the maintainers")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
