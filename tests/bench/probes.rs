//! What probing costs: 64 destinations with 4 endpoints each, every one probed each second.

use crate::gateway::Gateway;
use harness::dicom_scp::Scp;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

const DESTINATIONS: usize = 64;
const ENDPOINTS: usize = 4;

/// Time of one measurement.
const MEASURED: Duration = Duration::from_secs(20);

/// The rows. The share is of one core of this machine, system time included.
pub fn run(folder: &Path) {
    let scp = Scp::start();
    let accepting = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = accepting.local_addr().unwrap();
    std::thread::spawn(move || accepting.incoming().flatten().for_each(drop));
    for (probe, protocol, at, wanted) in [("tcp", "mllp", at, 5.0), ("dicom-echo", "dicom", scp.address(), 12.0)] {
        let gateway = Gateway::idle(&folder.join(probe), &destinations(protocol, probe, at));
        std::thread::sleep(Duration::from_secs(3)); // the first probes and the start are not measured
        let up = gateway.metric("everpost_endpoint_up");
        let (begun, cpu) = (Instant::now(), gateway.cpu());
        std::thread::sleep(MEASURED);
        let share = (gateway.cpu() - cpu) / begun.elapsed().as_secs_f64() * 100.0;
        println!("  {up} endpoints probed by {probe} each second: {share:.2} % of one core (wanted below {wanted} %)");
        assert_eq!(up as usize, DESTINATIONS * ENDPOINTS, "every endpoint is up");
    }
}

fn destinations(protocol: &str, probe: &str, at: SocketAddr) -> String {
    let mut text = String::new();
    let title = if protocol == "dicom" { "ae_title = \"PACS\"\n" } else { "" };
    for destination in 0..DESTINATIONS {
        let health = format!("health = {{ probe = \"{probe}\", interval = \"1s\", timeout = \"900ms\" }}");
        let _ = write!(text, "[[destination]]\nname = \"d{destination}\"\nprotocol = \"{protocol}\"\n{health}\n");
        for endpoint in 0..ENDPOINTS {
            let _ = write!(text, "[[destination.endpoint]]\nname = \"e{endpoint}\"\naddress = \"{at}\"\n{title}");
        }
        if protocol == "mllp" {
            let _ = write!(text, "[[route]]\nfrom = [\"in\"]\nto = [\"d{destination}\"]\n");
        }
    }
    text
}
