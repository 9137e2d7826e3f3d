//! Which destinations a message goes to, and in which lane.
//! Rules: every matching route applies and their destinations are united; `when` keys are ANDed, the values of one are ORed, `*` globs, a key that
//! the message does not have counts as empty; default routes count only if no other matched; a query needs a route that names it. The choice can
//! be explained without patient data.
//! Errors: none; no destination means no route.

use everpost_client::config::Destination;
use everpost_client::ids::DestinationId;
use everpost_client::keys::{Key, Keys, Protocol};
use everpost_client::spool::{Addressee, Lane};
use std::sync::Arc;

/// The keys that `when` may name.
pub const WHEN_KEYS: &[Key] = &[
    Key::MessageType,
    Key::SendingApplication,
    Key::SendingFacility,
    Key::ReceivingApplication,
    Key::ReceivingFacility,
    Key::ProcessingId,
    Key::CallingAe,
    Key::CalledAe,
    Key::SopClass,
    Key::Modality,
    Key::Peer,
];

/// Message types whose answer the sender waits for: a stored query cannot be answered.
const QUERIES: &[&str] = &["QRY", "QBP"];

/// A value of `when`: text in which `*` stands for any characters, none included. Case counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether it fits a value as a whole.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let (mut p, mut v) = (0, 0);
        // Where to go on when a character does not fit: behind the last star, which then takes one character more.
        let mut retry: Option<(usize, usize)> = None;
        while v < value.len() {
            if pattern.get(p) == Some(&b'*') {
                p += 1;
                retry = Some((p, v));
            } else if pattern.get(p) == Some(&value[v]) {
                p += 1;
                v += 1;
            } else if let Some((after_star, taken)) = retry {
                p = after_star;
                v = taken + 1;
                retry = Some((after_star, v));
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&byte| byte == b'*')
    }

    /// Whether it names this message type itself, not by a star.
    fn names(&self, code: &str) -> bool {
        self.0.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with(['^', '*']))
    }
}

/// `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Names of listeners; empty: every listener of the destinations' protocol.
    pub from: Vec<Arc<str>>,
    /// Names of destinations.
    pub to: Vec<Arc<str>>,
    /// Conditions, all of which must hold; one holds if one of its patterns matches.
    pub when: Vec<(Key, Vec<Pattern>)>,
    /// Only if no other route matched.
    pub default: bool,
    /// Its messages go before others where the order allows.
    pub stat: bool,
}

impl Route {
    /// Whether a message comes from where the route begins and fulfils its conditions.
    fn matches(&self, keys: &Keys) -> bool {
        let listener = keys.get(Key::Listener).unwrap_or_default();
        (self.from.is_empty() || self.from.iter().any(|name| name.as_bytes() == listener))
            && self.when.iter().all(|(key, patterns)| {
                let value = keys.get(*key).unwrap_or_default();
                patterns.iter().any(|pattern| pattern.matches(value))
            })
    }

    /// Whether one of its `message_type` values names this query.
    fn names_query(&self, code: &str) -> bool {
        self.when.iter().any(|(key, patterns)| *key == Key::MessageType && patterns.iter().any(|pattern| pattern.names(code)))
    }
}

/// The routes of a running gateway, with the ids of the spool.
#[derive(Debug)]
pub struct Routes {
    /// Each with the places of its destinations in `destinations`.
    routes: Vec<(Route, Vec<usize>)>,
    destinations: Vec<(Arc<Destination>, DestinationId)>,
}

impl Routes {
    /// Joins routes with the destinations they name. A name that is not among them is passed over: the configuration has checked the names.
    #[must_use]
    pub fn new(routes: Vec<Route>, destinations: Vec<(Arc<Destination>, DestinationId)>) -> Routes {
        let place = |name: &Arc<str>| destinations.iter().position(|(destination, _)| destination.name == *name);
        let routes = routes.into_iter().map(|route| (route.to.iter().filter_map(place).collect(), route)).map(|(to, route)| (route, to)).collect();
        Routes { routes, destinations }
    }

    /// Where a message goes, each destination once, stat if one of the routes that lead there is; empty: nowhere. The listener's name stands in `keys`.
    #[must_use]
    pub fn choose(&self, keys: &Keys, protocol: Protocol) -> Vec<Addressee> {
        let mut chosen: Vec<(usize, bool)> = Vec::new();
        for place in self.matching(keys) {
            let (route, destinations) = &self.routes[place];
            for &to in destinations.iter().filter(|to| self.destinations[**to].0.protocol == protocol) {
                match chosen.iter_mut().find(|(known, _)| *known == to) {
                    Some((_, stat)) => *stat |= route.stat,
                    None => chosen.push((to, route.stat)),
                }
            }
        }
        let addressee = |(to, stat): (usize, bool)| {
            let (destination, id) = &self.destinations[to];
            Addressee { destination: *id, lane: Lane::of(destination.ordering, keys), stat }
        };
        chosen.into_iter().map(addressee).collect()
    }

    /// What a message is addressed by to one destination, whatever the routes say.
    #[must_use]
    pub fn addressed(&self, destination: &str, keys: &Keys, stat: bool) -> Option<Addressee> {
        let (destination, id) = self.destinations.iter().find(|(known, _)| *known.name == *destination)?;
        Some(Addressee { destination: *id, lane: Lane::of(destination.ordering, keys), stat })
    }

    /// Why a message goes where it goes, for people; no patient data.
    #[must_use]
    pub fn explain(&self, keys: &Keys) -> String {
        let listener = keys.text(Key::Listener);
        let kind = match (keys.get(Key::MessageType), keys.get(Key::SopClass)) {
            (Some(_), _) => format!("message type {}", keys.text(Key::MessageType)),
            (None, Some(_)) => format!("SOP class {}", keys.text(Key::SopClass)),
            (None, None) => "unknown kind".to_owned(),
        };
        let matching = self.matching(keys);
        if matching.is_empty() {
            let remedy = match query(keys) {
                Some(code) => format!("a query cannot be answered from a store; name {code} in a route's message_type to take it all the same"),
                None => "add a route, or a route with default = true".to_owned(),
            };
            return format!("no route for {kind} from {listener}; {remedy}");
        }
        let said: Vec<String> = matching
            .into_iter()
            .map(|place| {
                let route = &self.routes[place].0;
                let keys: Vec<&str> = route.when.iter().map(|(key, _)| key.name()).collect();
                let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
                let default = if route.default { " (default)" } else { "" };
                format!("route {}{default}{by} to {}", place + 1, route.to.join(", "))
            })
            .collect();
        format!("{kind} from {listener}: {}", said.join("; "))
    }

    /// Places of the routes that apply.
    fn matching(&self, keys: &Keys) -> Vec<usize> {
        let query = query(keys);
        let apply = |default: bool| -> Vec<usize> {
            let fits = |route: &Route| route.default == default && query.is_none_or(|code| route.names_query(code)) && route.matches(keys);
            self.routes.iter().enumerate().filter(|(_, (route, _))| fits(route)).map(|(place, _)| place).collect()
        };
        let ordinary = apply(false);
        if ordinary.is_empty() { apply(true) } else { ordinary }
    }
}

/// The code of the query that a message is, if it is one.
fn query(keys: &Keys) -> Option<&'static str> {
    let code = keys.get(Key::MessageType)?.split(|&byte| byte == b'^').next()?;
    QUERIES.iter().find(|query| query.as_bytes() == code).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use everpost_client::config::{Ambiguous, CallingAe, LaneRule, OnAe, Ordering, Policy};
    use std::num::NonZeroU16;
    use std::time::Duration;

    fn destination(name: &str, protocol: Protocol, ordering: Ordering) -> Arc<Destination> {
        Arc::new(Destination {
            name: name.into(),
            protocol,
            policy: Policy::Failover,
            ordering,
            connect_timeout: Duration::ZERO,
            ack_timeout: Duration::ZERO,
            attempts_before_failover: 2,
            hold_down: Duration::ZERO,
            hold_down_max: Duration::ZERO,
            failback_auto: true,
            failback_window: None,
            ambiguous: Ambiguous::Resend,
            on_ae: OnAe::DeadLetter,
            after_dead_letter: LaneRule::Continue,
            after_hold: LaneRule::Stop,
            reject_alarm: Duration::ZERO,
            retry_first: Duration::ZERO,
            retry_max: Duration::ZERO,
            silence_as_asked: false,
            calling_ae: CallingAe::Pass,
            associations: NonZeroU16::MIN,
            window: NonZeroU16::MIN,
            convert: false,
            idle_release: Duration::ZERO,
            endpoints: Vec::new(),
            replay_window: Duration::ZERO,
            resync: false,
            objectives: everpost_client::config::Objectives::default(),
            reconcile: false,
            drill: everpost_client::config::DrillSettings::default(),
            not_acting: Vec::new(),
        })
    }

    fn route(from: &[&str], to: &[&str], when: &[(Key, &[&str])]) -> Route {
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        let patterns = |values: &[&str]| values.iter().map(|&value| Pattern(value.to_owned())).collect();
        Route {
            from: names(from),
            to: names(to),
            when: when.iter().map(|(key, values)| (*key, patterns(values))).collect(),
            default: false,
            stat: false,
        }
    }

    fn default(mut route: Route) -> Route {
        route.default = true;
        route
    }

    fn routes(list: Vec<Route>) -> Routes {
        let destinations =
            ["a", "b", "c"].into_iter().zip(0..).map(|(name, id)| (destination(name, Protocol::Mllp, Ordering::Strict), DestinationId(id)));
        Routes::new(list, destinations.collect())
    }

    fn keys(values: &[(Key, &str)]) -> Keys {
        let mut keys = Keys::new();
        for (key, value) in values {
            keys.set(*key, value.as_bytes());
        }
        keys
    }

    fn chosen(routes: &Routes, values: &[(Key, &str)]) -> Vec<u16> {
        routes.choose(&keys(values), Protocol::Mllp).into_iter().map(|addressee| addressee.destination.0).collect()
    }

    #[test]
    fn patterns_fit_as_a_whole() {
        let cases = [
            ("ADT^A01", "ADT^A01", true),
            ("ADT^A01", "ADT^A011", false),
            ("ADT^*", "ADT^A01", true),
            ("ADT^*", "ADT", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("*01", "ADT^A0101", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("1.2.840.10008.5.1.4.1.1.2*", "1.2.840.10008.5.1.4.1.1.2.1", true),
            ("adt^*", "ADT^A01", false),
            ("**", "x", true),
        ];
        for (pattern, value, fits) in cases {
            assert_eq!(Pattern(pattern.to_owned()).matches(value.as_bytes()), fits, "{pattern} on {value}");
        }
    }

    #[test]
    fn a_pattern_full_of_stars_does_not_explode() {
        let pattern = Pattern("*a".repeat(40) + "b");
        assert!(!pattern.matches(&[b'a'; 512]));
    }

    #[test]
    fn keys_are_anded_and_values_ored() {
        let routes = routes(vec![route(&["in"], &["a"], &[(Key::MessageType, &["ORM^O01", "ADT^*"]), (Key::SendingFacility, &["NORTH"])])]);
        let from = (Key::Listener, "in");
        assert_eq!(chosen(&routes, &[from, (Key::MessageType, "ADT^A08"), (Key::SendingFacility, "NORTH")]), [0]);
        assert_eq!(chosen(&routes, &[from, (Key::MessageType, "ORM^O01"), (Key::SendingFacility, "NORTH")]), [0]);
        assert!(chosen(&routes, &[from, (Key::MessageType, "ADT^A08"), (Key::SendingFacility, "SOUTH")]).is_empty());
        assert!(chosen(&routes, &[from, (Key::MessageType, "ORU^R01"), (Key::SendingFacility, "NORTH")]).is_empty());
        assert!(chosen(&routes, &[from, (Key::MessageType, "ADT^A08")]).is_empty());
        assert!(chosen(&routes, &[(Key::Listener, "other"), (Key::MessageType, "ADT^A08"), (Key::SendingFacility, "NORTH")]).is_empty());
    }

    #[test]
    fn every_matching_route_applies_and_each_destination_once() {
        let routes = routes(vec![
            route(&["in"], &["a", "b"], &[]),
            route(&["in"], &["b", "c"], &[(Key::MessageType, &["ADT^*"])]),
            default(route(&[], &["c"], &[])),
        ]);
        assert_eq!(chosen(&routes, &[(Key::Listener, "in"), (Key::MessageType, "ADT^A01")]), [0, 1, 2]);
        assert_eq!(chosen(&routes, &[(Key::Listener, "in"), (Key::MessageType, "ORU^R01")]), [0, 1]);
        assert_eq!(chosen(&routes, &[(Key::Listener, "elsewhere"), (Key::MessageType, "ORU^R01")]), [2]);
    }

    #[test]
    fn a_query_needs_a_route_that_names_it() {
        let open =
            routes(vec![route(&["in"], &["a"], &[]), route(&["in"], &["b"], &[(Key::MessageType, &["*", "Q*"])]), default(route(&[], &["c"], &[]))]);
        for message_type in ["QRY^A19", "QBP^Q22", "QRY"] {
            let values = [(Key::Listener, "in"), (Key::MessageType, message_type)];
            assert!(chosen(&open, &values).is_empty(), "{message_type}");
            assert!(open.explain(&keys(&values)).contains("query"));
        }
        let naming = routes(vec![route(&["in"], &["a"], &[]), route(&["in"], &["b"], &[(Key::MessageType, &["QBP^Q22", "QRY*"])])]);
        assert_eq!(chosen(&naming, &[(Key::Listener, "in"), (Key::MessageType, "QBP^Q22")]), [1]);
        assert_eq!(chosen(&naming, &[(Key::Listener, "in"), (Key::MessageType, "QRY^A19")]), [1]);
        assert!(chosen(&naming, &[(Key::Listener, "in"), (Key::MessageType, "QBP^Q21")]).is_empty());
    }

    #[test]
    fn a_destination_of_another_protocol_is_never_chosen() {
        let mixed = Routes::new(
            vec![route(&[], &["pacs", "ris"], &[])],
            vec![
                (destination("pacs", Protocol::Dicom, Ordering::None), DestinationId(0)),
                (destination("ris", Protocol::Mllp, Ordering::Strict), DestinationId(1)),
            ],
        );
        assert_eq!(chosen(&mixed, &[(Key::Listener, "in")]), [1]);
    }

    #[test]
    fn the_explanation_shows_rules_and_no_patient() {
        let routes = routes(vec![route(&["in"], &["a"], &[(Key::MessageType, &["ADT^*"])])]);
        let said = routes.explain(&keys(&[(Key::Listener, "in"), (Key::MessageType, "ADT^A01"), (Key::Patient, "4711"), (Key::ControlId, "C1")]));
        assert_eq!(said, "message type ADT^A01 from in: route 1 by message_type to a");
        let said = routes.explain(&keys(&[(Key::Listener, "in"), (Key::MessageType, "ORU^R01")]));
        assert!(said.starts_with("no route for message type ORU^R01 from in;"), "{said}");
    }
}
