//! What the doctor hears from peers: what each endpoint's name stands for, and its echo (C-ECHO; for MLLP, which has no question of its own, a connection
//! and the TLS handshake), by the endpoint's own TLS settings and the destination's calling AE title.
//! Rules: all endpoints at a time, `MEETINGS` of them; each wait has a deadline; nothing but an echo is sent.
//! Errors: none; each is a finding.

use super::judge::Resolved;
use super::{Finding, State};
use crate::config::Config;
use everpost_client::config::{CallingAe, Destination, Endpoint, Finding as Sought};
use everpost_client::delivery::Outcome;
use everpost_client::event::Events;
use everpost_client::io::dial::Dialer;
use everpost_client::io::dicom_send::{self, Class, SendOptions};
use everpost_client::io::resolve::Resolver;
use everpost_client::io::stop::Stop;
use everpost_client::io::stream;
use everpost_client::io::tls::ClientTls;
use everpost_client::io::url::Url;
use everpost_client::keys::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Endpoints asked at a time.
const MEETINGS: usize = 16;

/// What came of one endpoint.
#[derive(Debug)]
pub(super) struct Met {
    destination: String,
    endpoint: String,
    ae_title: String,
    address: String,
    addresses: Vec<SocketAddr>,
    by_name: bool,
    heard: Heard,
}

#[derive(Debug)]
enum Heard {
    /// What was asked and answered, for people.
    Answer(String),
    /// SRV records were found; their members come and go.
    Records,
    /// The name stands for nothing.
    Unknown(String),
    /// An answer, and a negative one.
    Negative(String),
    /// No way there, or no answer.
    Nothing(String),
}

impl Met {
    pub(super) fn resolved(&self) -> Resolved {
        let (destination, endpoint, ae_title) = (self.destination.clone(), self.endpoint.clone(), self.ae_title.clone());
        Resolved { destination, endpoint, ae_title, addresses: self.addresses.clone() }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let subject = format!("{}/{}", self.destination, self.endpoint);
        let dns = "correct the record or the name; `[names] servers` says who is asked, else /etc/resolv.conf";
        let name = match &self.heard {
            Heard::Unknown(why) => return vec![Finding::fault("names", subject, why, dns)],
            _ if !self.by_name => None,
            Heard::Records => Some(Finding::ok("names", &subject, format!("{} has SRV records", self.address))),
            _ => {
                let list: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
                Some(Finding::ok("names", &subject, format!("{} = {}", self.address, list.join(", "))))
            }
        };
        let echo = match &self.heard {
            Heard::Answer(what) => Finding::ok("echo", subject, what),
            Heard::Records | Heard::Unknown(_) => Finding::skipped("echo", subject, "a pool: `everpost status` shows its members"),
            Heard::Negative(what) => {
                let remedy = "have our calling AE title, its called AE title and this box's address entered at the peer";
                Finding::new("echo", subject, State::Fault, format!("{} answers negatively: {what}", self.address), remedy)
            }
            Heard::Nothing(what) => {
                let remedy = "check address, port, firewall and TLS on both sides; docs/operating.md has a row for each phase";
                Finding::fault("echo", subject, what, remedy)
            }
        };
        name.into_iter().chain([echo]).collect()
    }
}

/// Meets every endpoint.
pub(super) async fn meet(config: &Config, within: Duration) -> Vec<Met> {
    let (stopper, stop) = Stop::new();
    let resolver = match Resolver::new(&config.names, Events::none(), stop) {
        Ok(resolver) => Arc::new(resolver),
        Err(e) => return everywhere(config, &e.to_string()),
    };
    let (turns, mut meetings) = (Arc::new(Semaphore::new(MEETINGS)), JoinSet::new());
    let mut count = 0;
    for destination in &config.destinations {
        for endpoint in &destination.endpoints {
            let (destination, endpoint, resolver, turns) = (destination.clone(), endpoint.clone(), resolver.clone(), turns.clone());
            let place = count;
            count += 1;
            meetings.spawn(async move {
                let _turn = turns.acquire_owned().await;
                (place, one(&destination, endpoint, &resolver, within).await)
            });
        }
    }
    let mut met = meetings.join_all().await;
    met.sort_by_key(|(place, _)| *place);
    stopper.stop();
    met.into_iter().map(|(_, met)| met).collect()
}

fn everywhere(config: &Config, why: &str) -> Vec<Met> {
    let all = config.destinations.iter().flat_map(|d| d.endpoints.iter().map(move |e| (d, e)));
    all.map(|(d, e)| blank(d, e, Heard::Nothing(format!("[names]: {why}")))).collect()
}

fn blank(destination: &Destination, endpoint: &Endpoint, heard: Heard) -> Met {
    Met {
        destination: destination.name.to_string(),
        endpoint: endpoint.name.to_string(),
        ae_title: endpoint.ae_title.clone(),
        address: endpoint.address(),
        addresses: Vec::new(),
        by_name: endpoint.host.parse::<std::net::IpAddr>().is_err(),
        heard,
    }
}

async fn one(destination: &Destination, endpoint: Arc<Endpoint>, resolver: &Resolver, within: Duration) -> Met {
    let mut met = blank(destination, &endpoint, Heard::Records);
    let tls = match endpoint.tls.as_ref().map(|tls| ClientTls::load(tls, &endpoint.host)).transpose() {
        Ok(tls) => tls,
        Err(e) => {
            met.heard = Heard::Nothing(e.to_string());
            return met;
        }
    };
    let dialer = Dialer::new(endpoint.clone(), tls.clone(), resolver);
    let dialled = dialer.dial(Instant::now() + within).await;
    met.addresses = dialer.resolved();
    met.heard = match dialled {
        Err(Outcome::NotSent { phase: everpost_client::delivery::Phase::Resolve, cause, .. }) => {
            let found = endpoint.finding == Sought::Srv && dialer.name().is_some_and(|name| name.age_seconds.is_some());
            if found { Heard::Records } else { Heard::Unknown(cause) }
        }
        Err(outcome) => Heard::Nothing(dicom_send::explain(&outcome).1),
        Ok(stream) => {
            let (peer, encrypted) = (stream.peer(), stream.is_tls());
            stream::close(stream).await;
            match destination.protocol {
                Protocol::Mllp => Heard::Answer(format!("{peer} takes connections{}", if encrypted { ", TLS handshake done" } else { "" })),
                Protocol::Dicom => echo(destination, &endpoint, tls, peer, within).await,
            }
        }
    };
    met
}

async fn echo(destination: &Destination, endpoint: &Endpoint, tls: Option<ClientTls>, peer: SocketAddr, within: Duration) -> Heard {
    // The address that has just taken a connection; the name in the certificate is still the endpoint's.
    let ae_title = endpoint.ae_title.clone();
    let url = Url { protocol: Protocol::Dicom, tls: tls.is_some(), ae_title, host: peer.ip().to_string(), port: peer.port() };
    let usual = SendOptions::default();
    let calling_ae = match &destination.calling_ae {
        CallingAe::Fixed(ae) => ae.clone(),
        CallingAe::Pass => usual.calling_ae.clone(),
    };
    let options = SendOptions { calling_ae, connect_timeout: within, answer_timeout: within, ..usual };
    match dicom_send::echo(&url, tls, &options).await {
        Ok(echoed) => Heard::Answer(format!("{peer}: {} in {:.0} ms", echoed.what, echoed.took.as_secs_f64() * 1_000.0)),
        Err((_, Class::Negative, what)) => Heard::Negative(what),
        Err((_, _, what)) => Heard::Nothing(what),
    }
}
