//! Reads `[[route]]` and checks it against listeners and destinations.
//! Rules: names must exist; a route joins listeners and destinations of one protocol.
//! Errors: noted in the `Reading`.

use super::Listener;
use crate::route::{Pattern, Route, WHEN_KEYS};
use everpost_client::config::read::{Section, Text};
use everpost_client::config::shape::{Default, Field, Kind, Shape, field};
use everpost_client::config::{Destination, Ordering};
use everpost_client::keys::{Key, Protocol};
use everpost_client::limits;
use std::sync::Arc;

const ANY: Default = Default::Depends("not looked at");
const PATTERN: Kind = Kind::Texts("a value, in which `*` stands for any characters");

/// `[[route]]`.
pub(super) const ROUTE: Shape = Shape {
    title: "[[route]]",
    meaning: "Which messages go to which destinations. Every route that matches applies, and their destinations are united; a message without a route is refused.",
    fields: &[
        field(
            "from",
            Kind::Texts("the name of a listener"),
            Default::Depends("every listener of the destinations' protocol"),
            "where the messages come in",
        ),
        field("to", Kind::Texts("the name of a destination"), Default::Required, "where they go"),
        field("when", Kind::Table(&WHEN), Default::Depends("always"), "which of them"),
        field("default", Kind::Flag, Default::Value("false"), "only for messages that no other route takes"),
        field(
            "priority",
            Kind::Choice(&["normal", "stat"]),
            Default::Value("normal"),
            "`stat`: they go before others, where the order allows; of five in a row at least one is another's",
        ),
    ],
};

/// `when`.
pub(super) const WHEN: Shape = Shape {
    title: "when",
    meaning: "All keys must match; a key matches if one of its values does. Case counts.",
    fields: &[
        pattern("message_type", "mllp: MSH-9 as `TYPE^EVENT`; queries (QRY, QBP) are taken only by a route that names them here"),
        pattern("sending_application", "mllp: MSH-3, first component"),
        pattern("sending_facility", "mllp: MSH-4, first component"),
        pattern("receiving_application", "mllp: MSH-5, first component"),
        pattern("receiving_facility", "mllp: MSH-6, first component"),
        pattern("processing_id", "mllp: MSH-11, first component"),
        pattern("calling_ae", "dicom: calling AE title"),
        pattern("called_ae", "dicom: called AE title"),
        pattern("sop_class", "dicom: SOP class UID"),
        pattern("modality", "dicom: modality (0008,0060)"),
        pattern("peer", "the sender's address"),
    ],
};

const fn pattern(name: &'static str, meaning: &'static str) -> Field {
    field(name, PATTERN, ANY, meaning)
}

/// Reads and checks every route.
pub(super) fn read(
    top: &Section<'_>,
    listener_sections: &[Section<'_>],
    listeners: &[Arc<Listener>],
    destination_sections: &[Section<'_>],
    destinations: &[Arc<Destination>],
) -> Vec<Route> {
    let sections = top.tables("route");
    if let Some(section) = sections.get(limits::ROUTES_MAX) {
        top.reading().problem(section.span(), format!("more than {} routes", limits::ROUTES_MAX), "use fewer");
    }
    let routes: Vec<Route> = sections.iter().map(|section| route(section, listeners, destinations)).collect();
    let reaches = |route: &Route, listener: &Listener| {
        let speaks = |name: &Arc<str>| destinations.iter().any(|destination| destination.name == *name && destination.protocol == listener.protocol);
        if route.from.is_empty() { route.to.iter().any(speaks) } else { route.from.contains(&listener.name) }
    };
    for (section, listener) in listener_sections.iter().zip(listeners) {
        let mut reached: Vec<&Arc<str>> = routes.iter().filter(|route| reaches(route, listener)).flat_map(|route| &route.to).collect();
        reached.sort();
        reached.dedup();
        if reached.is_empty() && !listener.name.is_empty() {
            let what = format!("no route begins at listener \"{}\": every message is refused there", listener.name);
            section.reading().warning(section.place("name"), what, "add a route from it");
        }
        if reached.len() > limits::FAN_OUT_MAX {
            let what = format!("messages of listener \"{}\" can go to more than {} destinations", listener.name, limits::FAN_OUT_MAX);
            section.reading().problem(section.place("name"), what, "use fewer, or a second gateway behind this one");
        }
    }
    for (section, destination) in destination_sections.iter().zip(destinations) {
        if !destination.name.is_empty() && !routes.iter().any(|route| route.to.contains(&destination.name)) {
            let what = format!("no route leads to destination \"{}\"", destination.name);
            section.reading().warning(section.place("name"), what, "add a route to it, or remove it");
        }
    }
    routes
}

fn route(section: &Section<'_>, listeners: &[Arc<Listener>], destinations: &[Arc<Destination>]) -> Route {
    let from = section.texts("from");
    let to = section.texts("to");
    let of_listener = |name: &str| listeners.iter().find(|listener| *listener.name == *name).map(|listener| listener.protocol);
    let of_destination = |name: &str| destinations.iter().find(|destination| *destination.name == *name).map(|destination| destination.protocol);
    for (key, texts) in [("from", &from), ("to", &to)] {
        if texts.is_empty() && section.has(key) {
            section.reading().problem(section.place(key), format!("`{key}` is empty"), format!("name at least one, or remove `{key}`"));
        }
    }
    for text in from.iter().filter(|text| of_listener(&text.value).is_none()) {
        section.malformed("from", text, "there is no such listener");
    }
    let begins: Option<Protocol> = from.iter().find_map(|text| of_listener(&text.value));
    let mut protocol = begins;
    for text in &from {
        differs(section, text, of_listener(&text.value), begins);
    }
    for text in &to {
        let own = of_destination(&text.value);
        match own {
            None => section.malformed("to", text, "there is no such destination"),
            Some(own) => differs(section, text, Some(own), Some(*protocol.get_or_insert(own))),
        }
    }
    let stat = section.choice("priority") == Some("stat");
    let strict = |text: &&Text| destinations.iter().any(|d| *d.name == *text.value && d.ordering == Ordering::Strict);
    if stat && let Some(text) = to.iter().find(strict) {
        let what = format!("\"{}\" keeps one order for all messages, so `priority = \"stat\"` changes nothing there", text.written);
        section.reading().warning(section.place("priority"), what, "use `ordering = \"patient\"` or \"none\" there, or remove it");
    }
    let when = section.table("when").map(|table| conditions(&table, protocol)).unwrap_or_default();
    let names = |texts: &[Text]| texts.iter().map(|text| text.value.as_str().into()).collect();
    Route { from: names(&from), to: names(&to), when, default: section.flag("default"), stat }
}

fn differs(section: &Section<'_>, text: &Text, own: Option<Protocol>, other: Option<Protocol>) {
    if let (Some(own), Some(other)) = (own, other)
        && own != other
    {
        let what = format!("\"{}\" speaks {own}, the rest of the route {other}", text.written);
        section.reading().problem(text.span.clone(), what, "a route joins one protocol; write one for each");
    }
}

fn conditions(table: &Section<'_>, protocol: Option<Protocol>) -> Vec<(Key, Vec<Pattern>)> {
    let mut conditions = Vec::new();
    for &key in WHEN_KEYS.iter().filter(|key| table.has(key.name())) {
        let texts = table.texts(key.name());
        if texts.is_empty() {
            table.reading().problem(
                table.place(key.name()),
                format!("`{}` has no value, so it never matches", key.name()),
                "give it one, or remove it",
            );
        }
        if let (Some(needed), Some(actual)) = (needs(key), protocol)
            && needed != actual
        {
            table.reading().problem(
                table.place(key.name()),
                format!("`{}` is a key of {needed}, the route is for {actual}", key.name()),
                "remove it",
            );
        }
        for text in &texts {
            if key == Key::MessageType && !text.value.contains(['^', '*']) {
                let what = format!("\"{}\" matches only messages without a trigger event", text.written);
                table.reading().warning(text.span.clone(), what, format!("write \"{}^*\" for every event", text.written));
            }
        }
        conditions.push((key, texts.into_iter().map(|text| Pattern(text.value)).collect()));
    }
    conditions
}

/// The protocol whose messages have a key; none: all.
fn needs(key: Key) -> Option<Protocol> {
    match key {
        Key::Peer => None,
        Key::CallingAe | Key::CalledAe | Key::SopClass | Key::Modality => Some(Protocol::Dicom),
        _ => Some(Protocol::Mllp),
    }
}
