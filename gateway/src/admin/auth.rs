//! Who may ask what: the socket's file mode is the right to everything; the loopback address shows state, never keys, content or verbs.
//! Rules: on the loopback address `Host` must name it, so that a web page of elsewhere cannot read it through a browser (DNS rebinding).
//! Errors: 403 with the way that is open, 421 for a foreign `Host`.

use super::Problem;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};

/// The way a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// `<data_dir>/admin.sock`.
    Socket,
    /// The loopback address.
    Loopback {
        /// Its port, if known.
        port: Option<u16>,
    },
}

/// Who is at the other end of the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caller {
    /// As the system says, if it does.
    pub uid: Option<u32>,
}

impl Door {
    /// The loopback address.
    #[must_use]
    pub fn loopback(address: Option<SocketAddr>) -> Self {
        Door::Loopback { port: address.map(|a| a.port()) }
    }

    /// Patient data (keys, content) may be shown.
    #[must_use]
    pub fn shows_patient_data(&self) -> bool {
        *self == Door::Socket
    }

    /// Refuses what only the socket may have.
    /// # Errors
    /// 403.
    pub fn demand_socket(&self, what: &str) -> Result<(), Problem> {
        if self.shows_patient_data() {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("{what} is only on the admin socket; use the command `everpost` on the gateway's own machine"),
        ))
    }
}

/// Stands before every handler.
pub async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    if let Door::Loopback { port } = door {
        if !is_for_loopback(&request, port) {
            return Problem::new(StatusCode::MISDIRECTED_REQUEST, "the Host header must name this loopback address, e.g. localhost").into_response();
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let refused = door.demand_socket("changing anything");
            return refused.err().map_or(StatusCode::FORBIDDEN.into_response(), IntoResponse::into_response);
        }
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

/// Exactly one `Host` names us; so does the authority of an absolute target, which goes before it (RFC 9112, 3.2.2).
fn is_for_loopback(request: &Request, port: Option<u16>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|h| h.to_str().ok()), hosts.next()) else { return false };
    names_loopback(host, port) && request.uri().authority().is_none_or(|authority| names_loopback(authority.as_str(), port))
}

/// `localhost` or a loopback address, with our port or none.
fn names_loopback(host: &str, port: Option<u16>) -> bool {
    let (name, given) = match host.rsplit_once(':') {
        Some((name, digits)) if !digits.contains(']') => match digits.parse::<u16>() {
            Ok(number) => (name, Some(number)),
            Err(_) => return false,
        },
        _ => (host, None),
    };
    if given.is_some() && port.is_some() && given != port {
        return false;
    }
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "127.9.9.9:8080"] {
            assert!(names_loopback(good, Some(8080)), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "localhost:81",
            "10.0.0.1:8080",
            "localhost:x",
            "[::2]:8080",
            "127.0.0.1.nip.io",
        ] {
            assert!(!names_loopback(bad, Some(8080)), "{bad}");
        }
    }

    #[test]
    fn one_host_and_the_authority_must_both_name_us() {
        let asked = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            is_for_loopback(&request.body(axum::body::Body::empty()).unwrap_or_default(), Some(8080))
        };
        assert!(asked("/metrics", &["localhost:8080"]));
        assert!(asked("http://localhost:8080/metrics", &["localhost:8080"]));
        assert!(!asked("/metrics", &[]));
        assert!(!asked("/metrics", &["localhost:8080", "evil.example"]));
        assert!(!asked("/metrics", &["localhost:8080", "localhost:8080"]));
        assert!(!asked("http://evil.example/metrics", &["localhost:8080"]));
    }

    #[test]
    fn the_loopback_address_gets_no_patient_data() {
        assert!(Door::loopback(None).demand_socket("content").is_err());
        assert!(Door::Socket.demand_socket("content").is_ok());
    }
}
