//! Handshakes on loopback with certificates made on the spot.

use super::*;
use crate::config::Endpoint;
use crate::delivery::{Outcome, Phase};
use crate::io::dial;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// A folder with authorities and certificates.
struct Pki(TempDir, Vec<Issuer<'static, KeyPair>>);

impl Pki {
    fn new() -> Pki {
        let mut pki = Pki(TempDir::new().unwrap(), Vec::new());
        for name in ["ca", "other-ca"] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            pki.write(name, &params.self_signed(&key).unwrap().pem(), &key);
            pki.1.push(Issuer::new(params, key));
        }
        for (name, host, ca) in [("server", "localhost", "ca"), ("elsewhere", "elsewhere.example.org", "ca"), ("client", "client", "ca")] {
            pki.issue(name, host, ca, |_| ());
        }
        pki
    }

    fn issue(&self, name: &str, host: &str, ca: &str, change: impl Fn(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = &self.1[usize::from(ca != "ca")];
        self.write(name, &params.signed_by(&key, issuer).unwrap().pem(), &key);
    }

    fn write(&self, name: &str, pem: &str, key: &KeyPair) {
        std::fs::write(self.file(&format!("{name}.pem")), pem).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn server(&self, name: &str, client_ca: Option<&str>) -> TlsServer {
        let client_ca = client_ca.map(|ca| self.file(&format!("{ca}.pem")));
        TlsServer { cert: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")), client_ca }
    }

    fn client(&self, ca: &str, identity: Option<&str>, verify: Verify) -> TlsClient {
        let identity = identity.map(|name| (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key"))));
        TlsClient { ca: Some(self.file(&format!("{ca}.pem"))), identity, server_name: None, verify }
    }
}

/// What both sides say of one handshake, and one byte each way to be sure of it (TLS 1.3 tells a refused client only then).
async fn shake(server: &ServerTls, client: &ClientTls) -> (Result<(), String>, Result<(), String>) {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listening.local_addr().unwrap();
    let accept = async {
        let mut stream = server.accept(listening.accept().await.unwrap().0).await.map_err(|fault| fault.to_string())?;
        assert!(stream.is_tls());
        stream.write_all(b"x").await.map_err(|error| explain(&error))?;
        stream.flush().await.map_err(|error| explain(&error))
    };
    let connect = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = client.connect(tcp).await.map_err(|fault| fault.to_string())?;
        stream.read_exact(&mut [0]).await.map(drop).map_err(|error| explain(&error))
    };
    tokio::join!(accept, connect)
}

fn load(server: &TlsServer, client: &TlsClient) -> (ServerTls, ClientTls) {
    (ServerTls::load(server).unwrap(), ClientTls::load(client, "localhost").unwrap())
}

#[tokio::test]
async fn server_and_mutual_authentication() {
    let pki = Pki::new();
    let (server, client) = load(&pki.server("server", None), &pki.client("ca", None, Verify::Full));
    assert_eq!(shake(&server, &client).await, (Ok(()), Ok(())));
    let (server, client) = load(&pki.server("server", Some("ca")), &pki.client("ca", Some("client"), Verify::Full));
    assert_eq!(shake(&server, &client).await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_client_without_the_right_certificate_is_refused() {
    let pki = Pki::new();
    let (server, client) = load(&pki.server("server", Some("ca")), &pki.client("ca", None, Verify::Full));
    let (served, connected) = shake(&server, &client).await;
    assert!(served.unwrap_err().contains("showed no certificate"));
    assert!(connected.unwrap_err().contains("asks for a certificate of ours"));
    pki.issue("stranger", "client", "other-ca", |_| ());
    let (server, client) = load(&pki.server("server", Some("ca")), &pki.client("ca", Some("stranger"), Verify::Full));
    let (served, connected) = shake(&server, &client).await;
    assert!(served.unwrap_err().contains("not from an authority"));
    assert!(connected.is_err());
}

#[tokio::test]
async fn authority_and_name_are_checked_as_far_as_said() {
    let pki = Pki::new();
    let server = ServerTls::load(&pki.server("elsewhere", None)).unwrap();
    let client = |ca, verify| ClientTls::load(&pki.client(ca, None, verify), "localhost").unwrap();
    assert!(shake(&server, &client("ca", Verify::Full)).await.1.unwrap_err().contains("another name"));
    assert_eq!(shake(&server, &client("ca", Verify::Ca)).await.1, Ok(()));
    assert!(shake(&server, &client("other-ca", Verify::Ca)).await.1.unwrap_err().contains("not from an authority"));
    assert_eq!(shake(&server, &client("other-ca", Verify::None)).await.1, Ok(()));
    let named = TlsClient { server_name: Some("elsewhere.example.org".to_owned()), ..pki.client("ca", None, Verify::Full) };
    assert_eq!(shake(&server, &ClientTls::load(&named, "localhost").unwrap()).await.1, Ok(()));
}

#[tokio::test]
async fn dates_are_checked() {
    let pki = Pki::new();
    pki.issue("old", "localhost", "ca", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (server, client) = load(&pki.server("old", None), &pki.client("ca", None, Verify::Ca));
    assert!(shake(&server, &client).await.1.unwrap_err().contains("expired"));
    assert!(server.expires_at().unwrap() < SystemTime::now());
    let pinned = ClientTls::load(&pki.client("old", None, Verify::Ca), "localhost").unwrap();
    assert!(shake(&server, &pinned).await.1.unwrap_err().contains("expired"));
}

#[tokio::test]
async fn a_certificate_among_the_authorities_is_trusted_as_it_is() {
    let pki = Pki::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    pki.write("device", &params.self_signed(&key).unwrap().pem(), &key);
    let (server, client) = load(&pki.server("device", Some("device")), &pki.client("device", Some("device"), Verify::Full));
    assert_eq!(shake(&server, &client).await, (Ok(()), Ok(())));
    let elsewhere = ClientTls::load(&pki.client("device", Some("device"), Verify::Full), "elsewhere").unwrap();
    assert!(shake(&server, &elsewhere).await.1.unwrap_err().contains("another name"));
    let stranger = ClientTls::load(&pki.client("ca", Some("device"), Verify::Full), "localhost").unwrap();
    assert!(shake(&server, &stranger).await.1.unwrap_err().contains("put it into our file of authorities"));
}

#[tokio::test]
async fn a_reload_changes_new_connections_and_keeps_open_ones() {
    let pki = Pki::new();
    let (server, client) = load(&pki.server("server", None), &pki.client("ca", None, Verify::Full));
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listening.local_addr().unwrap());
    let (tcp, accepted) = tokio::join!(tcp, listening.accept());
    let (open, served) = tokio::join!(client.connect(tcp.unwrap()), server.accept(accepted.unwrap().0));
    let (mut open, mut served) = (open.unwrap(), served.unwrap());

    std::fs::write(pki.file("server.pem"), "garbage").unwrap();
    assert!(server.reload().is_err());
    assert_eq!(shake(&server, &client).await.1, Ok(()), "the old certificate stays when the new one does not load");

    pki.issue("server", "localhost", "other-ca", |_| ());
    server.reload().unwrap();
    assert!(shake(&server, &client).await.1.unwrap_err().contains("not from an authority"));
    served.write_all(b"still here").await.unwrap();
    served.flush().await.unwrap();
    open.read_exact(&mut [0; 10]).await.unwrap();
}

#[test]
fn files_that_do_not_load_say_what_to_do() {
    let pki = Pki::new();
    let said = |settings: &TlsServer| ServerTls::load(settings).unwrap_err().to_string();
    assert!(said(&pki.server("missing", None)).contains("missing.pem cannot be read"));
    let crossed = TlsServer { key: pki.file("client.key"), ..pki.server("server", None) };
    assert!(said(&crossed).contains("is not the key of the certificate"));
    let swapped = TlsServer { cert: pki.file("server.key"), ..pki.server("server", None) };
    assert!(said(&swapped).contains("has no certificate"));
    let keyless = TlsServer { key: pki.file("server.pem"), ..pki.server("server", None) };
    assert!(said(&keyless).contains("has no private key"));
    std::fs::write(pki.file("server.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n").unwrap();
    assert!(said(&pki.server("server", None)).contains("is encrypted"));
    let without_ca = TlsClient { ca: None, ..pki.client("ca", None, Verify::Full) };
    assert!(ClientTls::load(&without_ca, "localhost").unwrap_err().to_string().contains("no `ca`"));
    assert!(ClientTls::load(&pki.client("ca", None, Verify::Full), "not a name").unwrap_err().to_string().contains("server_name"));
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let host = address.ip().to_string();
    let health = crate::config::endpoint::default_health(crate::keys::Protocol::Mllp);
    Endpoint {
        name: "a".into(),
        host,
        port: address.port(),
        finding: crate::config::Finding::Any,
        tier: 0,
        ae_title: String::new(),
        tls: None,
        weight: 1,
        site: None,
        health,
    }
}

#[tokio::test]
async fn dialling_tls_to_a_plain_peer_says_so() {
    let pki = Pki::new();
    let client = ClientTls::load(&pki.client("ca", None, Verify::Full), "localhost").unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(listening.local_addr().unwrap());
    let plain = async {
        let (mut tcp, _) = listening.accept().await.unwrap();
        tcp.write_all(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
        tcp.read_to_end(&mut Vec::new()).await
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    let (_, dialled) = tokio::join!(plain, dial::dial(&endpoint, Some(&client), deadline));
    let Err(Outcome::NotSent { phase: Phase::Tls, cause, timeout: false, .. }) = dialled else { panic!("{dialled:?}") };
    assert!(cause.contains("speaks plainly"), "{cause}");
}

#[tokio::test]
async fn dialling_plainly_gives_a_plain_stream() {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(listening.local_addr().unwrap());
    let stream = dial::dial(&endpoint, None, Instant::now() + Duration::from_secs(10)).await.unwrap();
    assert!(!stream.is_tls());
    assert_eq!(stream.peer(), listening.local_addr().unwrap());
    assert!(stream.tcp().nodelay().unwrap());
}

#[tokio::test]
async fn a_silent_peer_costs_no_more_than_the_deadline() {
    let pki = Pki::new();
    let client = ClientTls::load(&pki.client("ca", None, Verify::Full), "localhost").unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(listening.local_addr().unwrap());
    let dialled = dial::dial(&endpoint, Some(&client), Instant::now() + Duration::from_millis(200)).await;
    let Err(Outcome::NotSent { phase: Phase::Tls, cause, timeout: true, .. }) = dialled else { panic!("{dialled:?}") };
    assert!(cause.contains("does it expect a plain connection?"), "{cause}");
}

#[tokio::test]
async fn a_kept_tls_connection_is_looked_at_before_reuse() {
    let pki = Pki::new();
    let (server, client) = load(&pki.server("server", None), &pki.client("ca", None, Verify::Full));
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for late in [None, Some(&b"late answer"[..])] {
        let (tcp, accepted) = tokio::join!(TcpStream::connect(listening.local_addr().unwrap()), listening.accept());
        let (kept, served) = tokio::join!(client.connect(tcp.unwrap()), server.accept(accepted.unwrap().0));
        let (mut kept, mut served) = (kept.unwrap(), served.unwrap());
        served.flush().await.unwrap();
        kept.tcp().readable().await.unwrap();
        assert!(kept.reusable().await, "session tickets are no answer");
        match late {
            Some(bytes) => {
                served.write_all(bytes).await.unwrap();
                served.flush().await.unwrap();
            }
            None => served.shutdown().await.unwrap(),
        }
        // Until the byte, or the end, has come through the system.
        while kept.reusable().await {}
    }
}

#[tokio::test]
async fn a_message_to_a_server_that_refuses_our_certificate_is_not_sent() {
    use crate::io::mllp_exchange::{Dispatch, Link, Source};
    let pki = Pki::new();
    let (server, client) = load(&pki.server("server", Some("ca")), &pki.client("ca", None, Verify::Full));
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let accept = async { server.accept(listening.accept().await.unwrap().0).await.map(drop) };
    let send = async {
        let stream = client.connect(TcpStream::connect(listening.local_addr().unwrap()).await.unwrap()).await.unwrap();
        let source = Source::Memory(Some(bytes::Bytes::from_static(b"MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.5\r")));
        let timeout = Duration::from_secs(10);
        let dispatch = Dispatch { source, control_id: b"1".to_vec(), envelope: None, silent: false, timeout, unheard: timeout };
        Link::new(stream, "ris:2575".to_owned()).exchange(dispatch).await.0
    };
    let (refused, outcome) = tokio::join!(accept, send);
    assert!(refused.is_err());
    let Outcome::NotSent { phase: Phase::Tls, cause, stale: false, timeout: false } = outcome else { panic!("{outcome:?}") };
    assert!(cause.contains("asks for a certificate of ours"), "{cause}");
}
