//! How long it takes from a message's being sent until it is delivered on the secondary, by the way in which the primary fails.

use crate::gateway::Gateway;
use crate::{ROUNDS, quantile};
use harness::front::Front;
use harness::mllp::{Client, Server};
use harness::wire::Wire;
use harness::{World, http, synthetic};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Failovers of each kind.
const FAILOVERS: usize = 5 * ROUNDS;
/// `connect_timeout` and `ack_timeout`: the measure of what runs into one of them.
const DEADLINE: f64 = 400.0;

struct Scene {
    gateway: Gateway,
    client: Client,
    secondary: Server,
    sent: usize,
}

impl Scene {
    fn new(folder: &Path, primary: SocketAddr, more: &str) -> Self {
        let secondary = Server::start();
        let mut text = format!(
            "[[destination]]\nname = \"ris\"\nprotocol = \"mllp\"\nhold_down = \"100ms\"\nhold_down_max = \"100ms\"\nretry = {{ first = \"10ms\", max = \"20ms\" }}\n\
             health = {{ probe = \"tcp\", interval = \"1s\", timeout = \"900ms\", fall = 100, rise = 1 }}\n{more}\n"
        );
        for (name, at) in [("primary", primary), ("secondary", secondary.address())] {
            let _ = write!(text, "[[destination.endpoint]]\nname = \"{name}\"\naddress = \"{at}\"\n");
        }
        text += "[[route]]\nfrom = [\"in\"]\nto = [\"ris\"]\n";
        let gateway = Gateway::idle(folder, &text);
        let client = Client::connect(([127, 0, 0, 1], gateway.mllp).into()).unwrap();
        Self { gateway, client, secondary, sent: 0 }
    }

    fn send(&mut self) -> String {
        let id = format!("F-{:06}", self.sent);
        self.sent += 1;
        assert!(self.client.send(&synthetic::small(&id)).unwrap().positive());
        id
    }

    /// From the moment before a message is sent until the secondary has it, in milliseconds.
    fn takes(&mut self) -> f64 {
        let begun = Instant::now();
        let id = self.send();
        loop {
            if let Some(found) = self.secondary.received().iter().rev().find(|r| r.id == id) {
                return found.at.saturating_duration_since(begun).as_secs_f64() * 1e3;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing came to the secondary");
            std::thread::sleep(Duration::from_millis(1)); // the pace of asking; the arrival has a time of its own
        }
    }

    /// Sends until the primary is active and idle again.
    fn returns(&mut self) {
        let begun = Instant::now();
        let is = |gateway: &Gateway, name: &str, labels: &[(&str, &str)]| http::sample(&gateway.get("/metrics"), name, labels).unwrap_or_default();
        loop {
            self.send();
            std::thread::sleep(Duration::from_millis(50));
            let active = is(&self.gateway, "everpost_endpoint_active", &[("destination", "ris"), ("endpoint", "primary")]) > 0.0;
            if active && is(&self.gateway, "everpost_envelopes_waiting", &[("destination", "ris")]) == 0.0 {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the primary is not used again");
        }
    }
}

fn row(what: &str, mut took: Vec<f64>, limit: f64) {
    let (median, worst) = (quantile(&mut took, 0.5), quantile(&mut took, 1.0));
    println!("  {what:<58} median {median:>7.1} ms, worst {worst:>7.1} of {} (wanted: median below {limit} ms)", took.len());
}

/// Breaks and mends the primary again and again.
fn measure(scene: &mut Scene, mut set: impl FnMut(bool)) -> Vec<f64> {
    let one = |_| {
        scene.returns();
        std::thread::sleep(Duration::from_millis(400)); // idle connections are released where that is what is measured
        set(true);
        let took = scene.takes();
        set(false);
        took
    };
    (0..FAILOVERS).map(one).collect()
}

/// The rows.
pub fn run(folder: &Path) {
    let within = format!("connect_timeout = \"{DEADLINE}ms\"\nack_timeout = \"{DEADLINE}ms\"");
    let mut primary = Server::start();
    let mut scene = Scene::new(&folder.join("refused"), primary.address(), &within);
    row("primary refuses connections", measure(&mut scene, |broken| if broken { primary.shut() } else { primary.open() }), 50.0);

    let behind = Server::start();
    let front = Front::before(behind.address());
    let mut scene = Scene::new(&folder.join("frozen"), front.address(), &within);
    row("primary frozen (ack_timeout 400 ms)", measure(&mut scene, |broken| front.freeze(broken)), DEADLINE + 50.0);

    let world = World::new("bench-wire");
    let Some(wire) = Wire::new(&world) else {
        println!("  packets dropped: not measured");
        return;
    };
    let at = SocketAddr::new(wire.address(), 2_575);
    let mut far = wire.inside(|| Server::on(at));
    // The answer would be waited for far longer.
    for (what, keep) in [("packets dropped on a connection that stood", "10s"), ("packets dropped before a connection stands", "100ms")] {
        let more = format!("connect_timeout = \"{DEADLINE}ms\"\nack_timeout = \"20s\"\nidle_release = \"{keep}\"");
        let mut scene = Scene::new(&folder.join(what.replace(' ', "-")), at, &more);
        row(&format!("{what} (connect_timeout 400 ms x 2)"), measure(&mut scene, |broken| wire.cut(broken)), DEADLINE * 2.0 + 50.0);
    }
    wire.inside(|| far.shut());
}
