//! What a new configuration changes in a running gateway, and what it cannot change.
//! Rules: all or nothing; listeners and destinations are told apart by name; what a running gateway cannot change needs a restart, and the whole file
//! is refused until then, so that what runs is always what one file says.
//! Errors: each thing that needs a restart, with what to do.

use super::{Config, Listener};
use everpost_client::config::Destination;
use std::sync::Arc;

/// What changes, for people.
/// # Errors
/// What needs a restart.
pub fn changes(old: &Config, new: &Config) -> Result<Vec<String>, Vec<String>> {
    let mut obstacles = Vec::new();
    let mut fixed = |same: bool, what: &str| {
        if !same {
            obstacles.push(format!("{what} cannot change while the gateway runs; put it back, or restart"));
        }
    };
    fixed(old.data_dir == new.data_dir, "data_dir");
    fixed(old.admin_bind == new.admin_bind, "[admin] bind");
    fixed(old.spool == new.spool, "[spool]");
    let mut changes = Vec::new();
    for listener in &new.listeners {
        match old.listeners.iter().find(|l| l.name == listener.name) {
            None => changes.push(format!("listener {} added", listener.name)),
            Some(before) => {
                fixed(before.bind == listener.bind, &format!("bind of listener \"{}\"", listener.name));
                fixed(before.protocol == listener.protocol, &format!("protocol of listener \"{}\"", listener.name));
                if before != listener {
                    changes.push(format!("listener {} changed, for new connections", listener.name));
                }
            }
        }
    }
    for destination in &new.destinations {
        match old.destinations.iter().find(|d| d.name == destination.name) {
            None => changes.push(format!("destination {} added", destination.name)),
            Some(before) => {
                fixed(before.protocol == destination.protocol, &format!("protocol of destination \"{}\"", destination.name));
                if before != destination {
                    changes.push(format!("destination {} changed", destination.name));
                }
            }
        }
    }
    let gone = |names: Vec<&Arc<str>>, kept: Vec<&Arc<str>>| names.into_iter().filter(|n| !kept.contains(n)).cloned().collect::<Vec<_>>();
    changes.extend(gone(listener_names(old), listener_names(new)).iter().map(|name| format!("listener {name} removed")));
    let removed = gone(destination_names(old), destination_names(new));
    changes.extend(removed.iter().map(|name| format!("destination {name} removed, what waits for it is kept")));
    if old.routes != new.routes {
        changes.push("routes changed".to_owned());
    }
    if old.names != new.names {
        changes.push("names changed, every name is looked up again".to_owned());
    }
    if old.sites != new.sites {
        changes.push("sites changed".to_owned());
    }
    if old.name != new.name || old.stop_timeout != new.stop_timeout {
        changes.push("name or stop_timeout changed".to_owned());
    }
    if obstacles.is_empty() { Ok(changes) } else { Err(obstacles) }
}

fn listener_names(config: &Config) -> Vec<&Arc<str>> {
    config.listeners.iter().map(|l: &Arc<Listener>| &l.name).collect()
}

fn destination_names(config: &Config) -> Vec<&Arc<str>> {
    config.destinations.iter().map(|d: &Arc<Destination>| &d.name).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BASE: &str = r#"
name = "gw"
data_dir = "data"
[[listener]]
name = "in"
protocol = "mllp"
bind = "127.0.0.1:2575"
[[destination]]
name = "ris"
protocol = "mllp"
[[destination.endpoint]]
name = "a"
address = "127.0.0.1:1"
[[route]]
from = ["in"]
to = ["ris"]
"#;

    fn config(change: (&str, &str)) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gw.toml");
        assert!(BASE.contains(change.0), "{change:?}");
        std::fs::write(&file, BASE.replacen(change.0, change.1, 1)).unwrap();
        let config = Config::load(&file).unwrap();
        // The folder differs from file to file; what is asked here is the rest of the path.
        Config { data_dir: config.data_dir.strip_prefix(dir.path()).unwrap().to_owned(), ..config }
    }

    #[test]
    fn what_can_change_live_is_told() {
        let old = config(("gw", "gw"));
        for (change, told) in [
            (("gw", "gw"), vec![]),
            (("protocol = \"mllp\"\nbind", "protocol = \"mllp\"\nmax_connections = 5\nbind"), vec!["listener in changed, for new connections"]),
            (("127.0.0.1:1\"", "127.0.0.1:2\""), vec!["destination ris changed"]),
            (("[[route]]", "[[route]]\nwhen = { message_type = [\"ADT^*\"] }"), vec!["routes changed"]),
        ] {
            assert_eq!(changes(&old, &config(change)).unwrap(), told, "{change:?}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_refused() {
        let old = config(("gw", "gw"));
        for (change, told) in [
            (("\"data\"", "\"elsewhere\""), "data_dir"),
            (("2575", "2576"), "bind of listener \"in\""),
            (("[[listener]]", "[spool]\nhistory = \"1d\"\n[[listener]]"), "[spool]"),
            (("[[listener]]", "[admin]\nbind = \"127.0.0.1:1\"\n[[listener]]"), "[admin] bind"),
        ] {
            let obstacles = changes(&old, &config(change)).unwrap_err();
            assert_eq!(obstacles.len(), 1, "{obstacles:?}");
            assert!(obstacles[0].starts_with(told), "{obstacles:?}");
        }
    }
}
