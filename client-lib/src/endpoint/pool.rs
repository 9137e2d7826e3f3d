//! Pools: endpoints that DNS lists. An endpoint with `addresses = "each"` or `srv` stands in the configuration once and becomes one endpoint for each
//! address or record that its name has now.
//! Rules
//! - A member is called `NAME@ADDRESS` or `NAME@HOST:PORT`, so that it is recognised while it stays, whatever joins or leaves beside it.
//! - SRV (RFC 2782): the order is priority, then weight, heaviest first; priorities are tiers, weights are shares. Addresses stand in numeric order.
//! - A pool of which nothing is known stands for itself, as one endpoint that nobody can reach.
//! - A destination has at most `ENDPOINTS_MAX` endpoints, its pools' members included; who exceeds it is left out and told.
//!
//! Errors: none.

use crate::config::{Destination, Endpoint, Finding};
use crate::limits::{ENDPOINTS_MAX, MEMBER_NAME_BYTES_MAX};
use std::net::IpAddr;
use std::sync::Arc;

/// An SRV record. The order is that of preference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower is better.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Host name.
    pub target: String,
    /// TCP port.
    pub port: u16,
}

/// What is known of an endpoint's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or it is no pool.
    Itself,
    /// Each is a member.
    Addresses(Vec<IpAddr>),
    /// Each is a member.
    Services(Vec<Service>),
}

/// The destination with its pools as they are now, and how many members were left out.
#[must_use]
pub fn expanded(configured: &Destination, known: impl Fn(usize, &Endpoint) -> Known) -> (Destination, usize) {
    let mut endpoints = Vec::new();
    for (index, endpoint) in configured.endpoints.iter().enumerate() {
        let members = match (endpoint.finding, known(index, endpoint)) {
            (Finding::Each, Known::Addresses(addresses)) => each(endpoint, addresses),
            (Finding::Srv, Known::Services(services)) => of_services(endpoint, services),
            _ => Vec::new(),
        };
        if members.is_empty() {
            endpoints.push(Arc::clone(endpoint));
        }
        endpoints.extend(members);
    }
    // What people wrote comes before what DNS made of it, wherever it stands.
    let mut left_out = 0;
    while endpoints.len() > ENDPOINTS_MAX {
        let at = endpoints.iter().rposition(|e| origin(&e.name) != &*e.name).unwrap_or(endpoints.len() - 1);
        endpoints.remove(at);
        left_out += 1;
    }
    (Destination { endpoints, ..configured.clone() }, left_out)
}

/// Whether both are records of one pool, and the first is of a better priority.
#[must_use]
pub fn outranks(one: &Endpoint, other: &Endpoint) -> bool {
    one.tier < other.tier && origin(&one.name) == origin(&other.name)
}

/// The configured endpoint's name that a member's name begins with. Configured names have no `@`.
#[must_use]
pub fn origin(name: &str) -> &str {
    name.split_once('@').map_or(name, |(origin, _)| origin)
}

fn each(endpoint: &Endpoint, mut addresses: Vec<IpAddr>) -> Vec<Arc<Endpoint>> {
    addresses.sort();
    addresses.dedup();
    let member = |ip: IpAddr| {
        let name = member_name(&endpoint.name, &ip.to_string());
        Arc::new(Endpoint { name, host: ip.to_string(), finding: Finding::Any, ..endpoint.clone() })
    };
    addresses.into_iter().map(member).collect()
}

fn of_services(endpoint: &Endpoint, mut services: Vec<Service>) -> Vec<Arc<Endpoint>> {
    services.sort_by(|a, b| {
        (a.priority, std::cmp::Reverse(a.weight), &a.target, a.port).cmp(&(b.priority, std::cmp::Reverse(b.weight), &b.target, b.port))
    });
    let mut members: Vec<Arc<Endpoint>> = Vec::new();
    for Service { priority, weight, target, port } in services {
        let name = member_name(&endpoint.name, &format!("{target}:{port}"));
        // The same place twice: its better record counts.
        if members.iter().all(|other| other.name != name) {
            let (tier, weight) = (priority, weight.max(1));
            members.push(Arc::new(Endpoint { name, host: target, port, finding: Finding::Any, tier, weight, ..endpoint.clone() }));
        }
    }
    members
}

/// A long host name is cut; what is cut off is told apart by a number.
fn member_name(origin: &str, place: &str) -> Arc<str> {
    let whole = format!("{origin}@{place}");
    if whole.len() <= MEMBER_NAME_BYTES_MAX {
        return whole.into();
    }
    let cut = |bytes: &mut usize, c: char| {
        *bytes += c.len_utf8();
        (*bytes <= MEMBER_NAME_BYTES_MAX - 9).then_some(c)
    };
    let head: String = whole.chars().scan(0, cut).collect();
    format!("{head}~{:08x}", crc32c::crc32c(whole.as_bytes())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fixture;
    use crate::keys::Protocol;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service { priority, weight, target: target.to_owned(), port: 104 }
    }

    fn pool(finding: Finding) -> Destination {
        let mut destination = fixture::destination(Protocol::Dicom, &["pool", "plain"]);
        destination.endpoints[0] = Arc::new(Endpoint { finding, weight: 3, ..(*destination.endpoints[0]).clone() });
        destination
    }

    fn names(destination: &Destination) -> Vec<&str> {
        destination.endpoints.iter().map(|e| &*e.name).collect()
    }

    #[test]
    fn each_address_is_a_member_in_numeric_order() {
        let addresses = ["::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"].iter().filter_map(|a| a.parse().ok()).collect::<Vec<IpAddr>>();
        let configured = pool(Finding::Each);
        let (now, left_out) = expanded(&configured, |_, _| Known::Addresses(addresses.clone()));
        assert_eq!((names(&now), left_out), (vec!["pool@10.0.0.1", "pool@10.0.0.2", "pool@::1", "plain"], 0));
        let second = &now.endpoints[1];
        assert_eq!((second.host.as_str(), second.port, second.weight, second.finding), ("10.0.0.2", 104, 3, Finding::Any));
        assert_eq!(now.endpoints[2].address(), "[::1]:104");
        assert_eq!(origin(&second.name), "pool");
    }

    #[test]
    fn records_stand_in_the_order_of_priority_and_weight() {
        let services = vec![service(20, 9, "c"), service(10, 0, "b"), service(10, 7, "a"), service(30, 1, "b")];
        let (now, _) = expanded(&pool(Finding::Srv), |_, _| Known::Services(services.clone()));
        let found: Vec<_> = now.endpoints.iter().map(|e| (&*e.name, e.tier, e.weight)).collect();
        assert_eq!(found, [("pool@a:104", 10, 7), ("pool@b:104", 10, 1), ("pool@c:104", 20, 9), ("plain", 0, 1)]);
    }

    #[test]
    fn an_unknown_pool_stands_for_itself() {
        for finding in [Finding::Each, Finding::Srv] {
            let configured = pool(finding);
            let (now, _) = expanded(&configured, |_, _| Known::Itself);
            assert_eq!(now, configured);
        }
    }

    #[test]
    fn too_many_members_are_left_out_and_what_people_wrote_stays() {
        let many: Vec<IpAddr> = (0..100u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let (now, left_out) = expanded(&pool(Finding::Each), |_, _| Known::Addresses(many.clone()));
        assert_eq!((now.endpoints.len(), left_out), (ENDPOINTS_MAX, 100 + 1 - ENDPOINTS_MAX));
        assert_eq!(names(&now).last(), Some(&"plain"));
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = |end: &str| service(1, 1, &format!("{}{end}.example.org", "x".repeat(230)));
        let (now, _) = expanded(&pool(Finding::Srv), |_, _| Known::Services(vec![long("a"), long("b")]));
        assert!(now.endpoints[0].name.len() <= MEMBER_NAME_BYTES_MAX && now.endpoints[0].name != now.endpoints[1].name, "{:?}", names(&now));
    }
}
