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
