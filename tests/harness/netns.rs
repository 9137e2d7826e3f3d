//! A network of its own for a peer, which can swallow packets without a word.
//! Rules: a pair of virtual interfaces joins it to this machine; cutting takes the peer's address away while the neighbour entry stays, so packets go out
//! and nobody answers: no reset, no "unreachable". Addresses are those reserved for such tests (RFC 2544).
//! Errors: `None` where it is not allowed (the test is noted); panics for the rest.

use crate::loopfs::sbin;
use crate::process::{run, run_any};
use crate::world::World;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// A network namespace with one address.
pub struct Netns {
    name: String,
    link: String,
    near: String,
    far: String,
    number: u8,
}

/// A command that runs `program` in a namespace. Not `ip netns exec`: that makes a copy of all mounts too, and a file system of another test, unmounted
/// there only with the process, would come back as it was (shut down) when it is mounted again.
#[must_use]
pub fn command(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(sbin("nsenter"));
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

static NEXT: AtomicU8 = AtomicU8::new(1);

impl Netns {
    /// Makes one. `None`: not allowed here, and the test has been noted.
    #[must_use]
    #[track_caller]
    pub fn new(world: &World) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let id = std::process::id() % 10_000;
        let block = u8::try_from(id % 250).unwrap_or(1);
        let base = format!("198.18.{block}");
        let host = number.wrapping_mul(4) & 0xfc;
        let this = Self {
            name: format!("evp{id}n{number}"),
            link: format!("evp{id}v{number}"),
            near: format!("{base}.{}", host + 1),
            far: format!("{base}.{}", host + 2),
            number,
        };
        let (status, _, err) = run_any(Command::new(sbin("ip")).args(["netns", "add", &this.name]), 30);
        if !status.success() {
            let why = format!("network namespaces are not allowed here ({}); run tests/run as root", err.trim());
            crate::not_run(world.name(), &why);
            std::mem::forget(this);
            return None;
        }
        let peer = format!("{}p", this.link);
        this.ip(&["link", "add", &this.link, "type", "veth", "peer", "name", &peer]);
        this.ip(&["link", "set", &peer, "netns", &this.name]);
        this.ip(&["addr", "add", &format!("{}/30", this.near), "dev", &this.link]);
        this.ip(&["link", "set", &this.link, "up"]);
        this.ip(&["-n", &this.name, "link", "set", &peer, "up"]);
        this.ip(&["-n", &this.name, "link", "set", "lo", "up"]);
        this.heal();
        let mac = this.ip(&["-n", &this.name, "-o", "link", "show", &peer]);
        let mac = mac.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).expect("a link address").to_owned();
        this.ip(&["neigh", "replace", &this.far, "lladdr", &mac, "dev", &this.link, "nud", "permanent"]);
        Some(this)
    }

    #[track_caller]
    fn ip(&self, arguments: &[&str]) -> String {
        run(Command::new(sbin("ip")).args(arguments), 30)
    }

    /// Its name, for `command`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address inside.
    #[must_use]
    pub fn address(&self) -> std::net::IpAddr {
        self.far.parse().expect("an address")
    }

    /// From now on packets to it vanish.
    #[track_caller]
    pub fn cut(&self) {
        self.ip(&["-n", &self.name, "addr", "del", &format!("{}/30", self.far), "dev", &format!("{}p", self.link)]);
    }

    /// Packets arrive again.
    #[track_caller]
    pub fn heal(&self) {
        self.ip(&["-n", &self.name, "addr", "add", &format!("{}/30", self.far), "dev", &format!("{}p", self.link)]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run_any(Command::new(sbin("ip")).args(["link", "del", &self.link]), 30);
        let _ = run_any(Command::new(sbin("ip")).args(["netns", "del", &self.name]), 30);
        debug_assert!(self.number > 0);
    }
}

/// A machine that is in one network or another, or in none: a namespace with two links to this machine, of which one at a time has an address.
pub struct Workstation {
    inside: Netns,
    second: String,
    network: String,
    base: String,
    now: Option<usize>,
}

impl Workstation {
    /// In no network yet. `None`: not allowed here, and the test has been noted.
    #[must_use]
    #[track_caller]
    pub fn new(world: &World) -> Option<Self> {
        let inside = Netns::new(world)?;
        inside.cut();
        let base = inside.near.rsplit_once('.').expect("an address").0.replacen("198.18", "198.19", 1);
        let this = Self { second: format!("{}b", inside.link), network: format!("{base}.{}", inside.number), base, inside, now: None };
        let peer = format!("{}p", this.second);
        this.inside.ip(&["link", "add", &this.second, "type", "veth", "peer", "name", &peer]);
        this.inside.ip(&["link", "set", &peer, "netns", this.name()]);
        this.inside.ip(&["link", "set", &this.second, "up"]);
        this.inside.ip(&["addr", "add", &format!("{}/32", this.network), "dev", "lo"]);
        for way in 0..2 {
            let (link, near, _) = this.way(way);
            this.inside.ip(&["addr", "add", &format!("{near}/30"), "dev", &link]);
        }
        Some(this)
    }

    /// The link on this side, and the addresses of both.
    fn way(&self, way: usize) -> (String, String, String) {
        let link = if way == 0 { self.inside.link.clone() } else { self.second.clone() };
        let first = 128 + usize::from(self.inside.number) % 16 * 8 + way * 4;
        (link, format!("{}.{}", self.base, first + 1), format!("{}.{}", self.base, first + 2))
    }

    /// The namespace's name, for `command`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inside.name()
    }

    /// An address of this machine that can be reached from both networks.
    #[must_use]
    pub fn network(&self) -> std::net::IpAddr {
        self.network.parse().expect("an address")
    }

    /// Leaves every network: no address, no route.
    #[track_caller]
    pub fn leave(&mut self) {
        if let Some(way) = self.now.take() {
            let (link, _, far) = self.way(way);
            self.inside.ip(&["-n", self.name(), "addr", "del", &format!("{far}/30"), "dev", &format!("{link}p")]);
            self.inside.ip(&["-n", self.name(), "link", "set", &format!("{link}p"), "down"]);
        }
    }

    /// Joins the first or the second network, with an address of its own there.
    #[track_caller]
    pub fn join(&mut self, way: usize) {
        self.leave();
        let (link, near, far) = self.way(way);
        self.inside.ip(&["-n", self.name(), "link", "set", &format!("{link}p"), "up"]);
        self.inside.ip(&["-n", self.name(), "addr", "add", &format!("{far}/30"), "dev", &format!("{link}p")]);
        self.inside.ip(&["-n", self.name(), "route", "replace", "default", "via", &near]);
        self.now = Some(way);
    }
}

impl Drop for Workstation {
    fn drop(&mut self) {
        let _ = run_any(Command::new(sbin("ip")).args(["addr", "del", &format!("{}/32", self.network), "dev", "lo"]), 30);
        let _ = run_any(Command::new(sbin("ip")).args(["link", "del", &self.second]), 30);
    }
}
