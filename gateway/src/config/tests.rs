//! The whole file: the example of the design, every key good and bad, every problem at its place.

use super::*;
use everpost_client::config::read::TlsUse;
use everpost_client::config::shape::{Default, Field, Kind, Shape};
use everpost_client::config::{CallingAe, Ordering, Probe, Verify};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A folder with a configuration in it, and the certificates of `PKI`.
struct Place(TempDir);

impl Place {
    fn new(source: &str) -> Place {
        let place = Place(TempDir::new().unwrap());
        std::fs::write(place.file("everpost.toml"), source).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn certificates(&self) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["gw".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        for name in ["gw.pem", "hospital-ca.pem"] {
            std::fs::write(self.file(name), &pem).unwrap();
        }
        std::fs::write(self.file("gw.key"), key.serialize_pem()).unwrap();
    }

    fn load(&self) -> Result<Config, Vec<String>> {
        let file = self.file("everpost.toml");
        let environment = |name: &str| (name == "HOST").then(|| "pacs-a.example.org".to_owned());
        let prefix = format!("{}:", file.display());
        let short = |problem: &Problem| problem.to_string().replacen(&prefix, "", 1);
        Config::load_with(&file, &environment).map_err(|problems| problems.iter().map(short).collect())
    }
}

fn problems(source: &str) -> Vec<String> {
    Place::new(source).load().unwrap_err()
}

fn warnings(source: &str) -> Vec<String> {
    let config = Place::new(source).load().unwrap();
    config.warnings.iter().map(|warning| format!("{}:{}: {}", warning.line, warning.column, warning.what)).collect()
}

const EXAMPLE: &str = r#"name     = "ct-room-1"
data_dir = "/var/lib/everpost"     # spool, admin socket, audit

[admin]
bind = "127.0.0.1:8080"            # read-only

[spool]
reserve = "1 GiB"
history = "7d"                     # how long delivered content stays readable, space permitting

[[listener]]
name     = "ris-in"
protocol = "mllp"
bind     = "0.0.0.0:2575"

[[listener]]
name     = "modalities"
protocol = "dicom"
bind     = "0.0.0.0:11112"
ae_title = ["EVERPOST", "CT_ROOM"]
# tls = { cert = "gw.pem", key = "gw.key", client_ca = "hospital-ca.pem" }

[[destination]]
name          = "pacs"
protocol      = "dicom"
policy        = "failover"
calling_ae    = "pass"             # the modality's own, or a fixed one
associations  = 4
replay_window = "2m"
health        = { probe = "dicom-echo", interval = "10s", fall = 3, rise = 2 }

  [[destination.endpoint]]
  name     = "primary"
  address  = "pacs-a.example.org:104"
  ae_title = "PACS"
  # tls = { ca = "hospital-ca.pem", cert = "gw.pem", key = "gw.key", server_name = "pacs-a.example.org", verify = "full" }

  [[destination.endpoint]]
  name     = "secondary"
  address  = "pacs-b.example.org:104"
  ae_title = "PACS"

[[destination]]
name        = "ris"
protocol    = "mllp"
ordering    = "strict"
ack_timeout = "30s"

  [[destination.endpoint]]
  name    = "primary"
  address = "ris-a.example.org:2575"

  [[destination.endpoint]]
  name    = "secondary"
  address = "ris-b.example.org:2575"

[[route]]
from = ["modalities"]
to   = ["pacs"]

[[route]]
from = ["ris-in"]
when = { message_type = ["ORM^O01", "ADT^*"] }
to   = ["ris"]
"#;

#[test]
fn the_example_loads() {
    let config = Place::new(EXAMPLE).load().unwrap();
    assert_eq!((&*config.name, config.data_dir.as_path()), ("ct-room-1", Path::new("/var/lib/everpost")));
    assert_eq!((config.admin_bind, config.stop_timeout), (Some("127.0.0.1:8080".parse().unwrap()), Duration::from_secs(10)));
    assert_eq!((config.listeners.len(), config.destinations.len(), config.routes.len()), (2, 2, 2));
    let ris_in = &config.listeners[0];
    assert_eq!((ris_in.max_connections, ris_in.max_connections_per_peer, ris_in.max_message), (1024, 256, 64 << 20));
    assert_eq!((ris_in.duplicates, ris_in.application_ack), (Duplicates::Deliver, ApplicationAck::Immediate));
    assert_eq!(ris_in.idle_timeout, Duration::from_secs(86_400));
    let modalities = &config.listeners[1];
    assert_eq!(
        (&modalities.ae_titles[..], modalities.max_associations, modalities.max_pdu),
        (&["EVERPOST".to_owned(), "CT_ROOM".to_owned()][..], 64, 262_144)
    );
    assert_eq!((modalities.idle_timeout, modalities.bind), (Duration::from_secs(300), "0.0.0.0:11112".parse().unwrap()));
    let pacs = &config.destinations[0];
    assert_eq!((&pacs.calling_ae, pacs.ordering, &pacs.endpoints[1].health.probe), (&CallingAe::Pass, Ordering::None, &Probe::DicomEcho));
    assert_eq!(warnings(EXAMPLE), [""; 0]);
    assert!(check(Path::new("/nowhere/everpost.toml")).0[0].to_string().starts_with("/nowhere/everpost.toml: cannot be read"));
}

#[test]
fn the_example_loads_with_tls() {
    let place = Place::new(&EXAMPLE.replace("# tls", "tls"));
    place.certificates();
    let config = place.load().unwrap();
    let tls = config.listeners[1].tls.as_ref().unwrap();
    assert_eq!((&tls.cert, tls.client_ca.as_ref()), (&place.file("gw.pem"), Some(&place.file("hospital-ca.pem"))));
    let tls = config.destinations[0].endpoints[0].tls.as_ref().unwrap();
    assert_eq!((&tls.ca, tls.verify), (&Some(place.file("hospital-ca.pem")), Verify::Full));
    assert!(config.warnings.iter().any(|warning| warning.what.contains("\"secondary\" is less protected than \"primary\"")));
    std::fs::write(place.file("gw.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let problems = place.load().unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("21:7: ") && problems[0].contains("gw.key is not the key of the certificate"), "{problems:?}");
    assert!(problems[1].starts_with("36:9: "), "{problems:?}");
}

#[test]
fn files_that_are_missing_are_found_now() {
    let source = EXAMPLE
        .replace("# tls = { cert", "tls = { cert")
        .replace("ordering    = \"strict\"", "health = { probe = \"mllp\", message = \"probe.hl7\" }");
    let problems = problems(&source);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("21:7: ") && problems[0].contains("gw.pem cannot be read"), "{problems:?}");
    assert!(problems[1].starts_with("46:38: ") && problems[1].contains("probe.hl7 cannot be read"), "{problems:?}");
}

#[test]
fn a_certificate_near_its_end_is_told() {
    let now = SystemTime::now();
    assert_eq!(expires_soon(now - Duration::from_secs(1)).unwrap(), "the certificate has expired");
    assert_eq!(expires_soon(now + Duration::from_secs(10 * 86_400 + 60)).unwrap(), "the certificate expires in 10 days");
    assert_eq!(expires_soon(now + Duration::from_secs(40 * 86_400)), None);
    let settings = TlsUse::Server(TlsServer { cert: "a".into(), key: "b".into(), client_ca: None });
    assert!(format!("{settings:?}").contains("cert"));
}

#[test]
fn all_problems_of_a_file_come_at_once_and_in_order() {
    let source = EXAMPLE
        .replace("data_dir =", "datadir  =")
        .replace("127.0.0.1:8080", "0.0.0.0:8080")
        .replace("\"0.0.0.0:11112\"", "\"0.0.0.0:2575\"")
        .replace("\"30s\"", "\"30 sec\"")
        .replace("to   = [\"pacs\"]", "to   = [\"ris\", \"cloud\"]")
        .replace("message_type", "messagetype");
    let expected = [
        "1:1: the top of the file has no `data_dir`; add it: a directory, relative to the configuration file",
        "2:1: unknown key `datadir` in the top of the file; did you mean `data_dir`?",
        "5:8: `bind` is \"0.0.0.0:8080\", which other machines reach; bind to 127.0.0.1 or [::1]; other machines need a token and TLS, which this version does not have",
        "19:12: 0.0.0.0:2575 is taken by listener \"ris-in\" already; choose another port",
        "47:15: `ack_timeout` cannot be \"30 sec\"; it is a duration from \"100ms\" to \"1d\"",
        "59:9: \"ris\" speaks mllp, the rest of the route dicom; a route joins one protocol; write one for each",
        "59:16: `to` cannot be \"cloud\": there is no such destination; it is the name of a destination, or a list of them",
        "63:10: unknown key `messagetype` in when; did you mean `message_type`?",
    ];
    assert_eq!(problems(&source), expected);
}

#[test]
fn the_environment_stands_in() {
    let config = Place::new(&EXAMPLE.replace("pacs-a.example.org:104", "${HOST}:104")).load().unwrap();
    assert_eq!(config.destinations[0].endpoints[0].host, "pacs-a.example.org");
    let problems = problems(&EXAMPLE.replace("pacs-a.example.org:104", "${UNSET}:104"));
    assert_eq!(problems, ["34:15: the environment variable UNSET is not set; set it where the gateway is started, or write the value here"]);
}

#[test]
fn what_is_no_text_says_where() {
    let place = Place::new("");
    std::fs::write(place.file("everpost.toml"), b"name = 'a'\nx = '\xff'\n").unwrap();
    assert_eq!(place.load().unwrap_err(), ["2:6: is not UTF-8 here; save the file as UTF-8"]);
    std::fs::write(place.file("everpost.toml"), vec![b'#'; 5 << 20]).unwrap();
    assert!(place.load().unwrap_err()[0].contains("is larger than"));
}

#[test]
fn routes_are_checked() {
    let route = |text: &str| EXAMPLE.replace("from = [\"modalities\"]\nto   = [\"pacs\"]", text);
    let cases = [
        ("to = []", "`to` is empty"),
        ("from = [\"modalities\"]", "has no `to`"),
        ("from = [\"nobody\"]\nto = [\"pacs\"]", "there is no such listener"),
        ("from = [\"ris-in\", \"modalities\"]\nto = [\"ris\"]", "\"modalities\" speaks dicom"),
        ("to = [\"ris\", \"pacs\"]", "\"pacs\" speaks dicom, the rest of the route mllp"),
        ("to = [\"pacs\"]\nwhen = { sending_facility = \"x\" }", "is a key of mllp"),
        ("to = [\"pacs\"]\nwhen = { modality = [] }", "never matches"),
        ("to = [\"pacs\"]\npriority = \"urgent\"", "`priority` cannot be"),
    ];
    for (text, said) in cases {
        let problems = problems(&route(text));
        assert!(problems.len() == 1 && problems[0].contains(said), "{text}: {problems:?}");
    }
    let told = warnings(&EXAMPLE.replace("\"ADT^*\"", "\"ADT\"").replace("to   = [\"pacs\"]", "to   = [\"pacs\"]\npriority = \"stat\""));
    assert!(told.iter().any(|warning| warning.contains("\"ADT\" matches only messages without a trigger event")), "{told:?}");
    assert!(!told.iter().any(|warning| warning.contains("`priority`")), "{told:?}");
    let told = warnings(&EXAMPLE.replace("to   = [\"ris\"]", "to   = [\"ris\"]\npriority = \"stat\""));
    assert!(told.iter().any(|warning| warning.contains("`priority = \"stat\"` changes nothing there")), "{told:?}");
    let told = warnings(&EXAMPLE.replace("from = [\"modalities\"]\nto   = [\"pacs\"]", "from = [\"ris-in\"]\nto   = [\"ris\"]"));
    assert!(told.iter().any(|warning| warning.contains("no route begins at listener \"modalities\"")), "{told:?}");
    assert!(told.iter().any(|warning| warning.contains("no route leads to destination \"pacs\"")), "{told:?}");
}

#[test]
fn listeners_are_checked() {
    let listener = |text: &str| EXAMPLE.replace("bind     = \"0.0.0.0:11112\"", text);
    let cases = [
        ("bind = \"pacs.example.org:104\"", "a host name does not do"),
        ("bind = \"127.0.0.1:8080\"", "taken by [admin]"),
        ("bind = \"0.0.0.0:11112\"\npeers = [\"10.0.0.0/33\"]", "`peers` cannot be"),
        ("bind = \"0.0.0.0:11112\"\nstorage_classes = [\"CT\"]", "it is no UID"),
        ("bind = \"0.0.0.0:11112\"\npeers = []", "`peers` is empty; name at least one, or remove `peers`: then everybody may connect"),
        ("bind = \"0.0.0.0:11112\"\nstorage_classes = []", "`storage_classes` is empty"),
        ("bind = \"0.0.0.0:11112\"\ncalling_ae = []", "`calling_ae` is empty"),
        ("bind = \"0.0.0.0:11112\"\ncalling_ae = \"\"", "it is empty"),
        ("bind = \"0.0.0.0:11112\"\ntls = { cert = \"gw.pem\" }", "tls of a listener has no `key`"),
    ];
    for (text, said) in cases {
        let problems = problems(&listener(text));
        assert!(problems.len() == 1 && problems[0].contains(said), "{text}: {problems:?}");
    }
    assert_eq!(Place::new(&listener("bind = \"localhost:0\"")).load().unwrap().listeners[1].bind, "127.0.0.1:0".parse().unwrap());
    let told = warnings(&listener("bind = \"[::]:11112\"\nmax_message = \"1 MiB\""));
    assert!(told.iter().any(|warning| warning.contains("`max_message` means nothing for dicom")), "{told:?}");
}

#[test]
fn endpoints_are_checked() {
    let primary = |text: &str| EXAMPLE.replace("\"ris-a.example.org:2575\"", text);
    let told =
        |text: &str| warnings(&primary(text)).into_iter().filter(|w| w.contains("same place") || w.contains("of this gateway")).collect::<Vec<_>>();
    assert_eq!(told("\"ris-a.example.org:2575\""), Vec::<String>::new());
    let same = told("\"RIS-B.example.org:2575\"");
    assert!(same.len() == 1 && same[0].contains("endpoint \"secondary\" is at the same place as \"primary\": they fail together"), "{same:?}");
    // Two archives behind one address are two receivers.
    let archives = EXAMPLE.replace("pacs-b.example.org", "pacs-a.example.org");
    assert!(warnings(&archives).iter().any(|w| w.contains("same place")));
    let other = archives.replacen("ae_title = \"PACS\"", "ae_title = \"OTHER\"", 1);
    assert!(!warnings(&other).iter().any(|w| w.contains("same place")));
    for own in ["\"127.0.0.1:2575\"", "\"localhost:2575\""] {
        let circle = told(own);
        assert!(circle.len() == 1 && circle[0].contains("is listener \"ris-in\" of this gateway"), "{own}: {circle:?}");
    }
    for slip in ["\"256.0.0.1:104\"", "\"10.0.0:104\"", "\"10.0.0.1.2:104\""] {
        let problems = problems(&primary(slip));
        assert!(problems.len() == 1 && problems[0].contains("it is not host:port"), "{slip}: {problems:?}");
    }
    let twice = problems(&primary("\"ris-a.example.org:2575\"\ntls = { verify = \"full\" }"));
    assert!(twice.len() == 1 && twice[0].contains("`tls` has no `ca`"), "{twice:?}");
}

#[test]
fn name_servers_are_checked() {
    let source = EXAMPLE.to_owned() + "[names]\nservers = [\"192.0.2.1\", \"[2001:db8::1]:53\"]\n";
    assert!(!warnings(&source).iter().any(|warning| warning.contains("`servers`")));
    let problems = problems(&source.replace("192.0.2.1", "resolver"));
    assert!(problems.len() == 1 && problems[0].contains("`servers` cannot be \"resolver\""), "{problems:?}");
}

#[test]
fn sites_are_checked() {
    let sited = |site: &str| {
        let at = |source: String, address: &str, site: &str| source.replace(&format!("\"{address}\""), &format!("\"{address}\"\nsite = \"{site}\""));
        let source = at(EXAMPLE.to_owned() + site, "ris-a.example.org:2575", "east");
        at(at(source, "ris-b.example.org:2575", "west"), "pacs-b.example.org:104", "east") + "[[site]]\nname = \"west\"\n"
    };
    let good = sited("[[site]]\nname = \"east\"\ntriggers = [\"pacs\"]\nfollowers = \"ris\"\n");
    let config = Place::new(&good).load().unwrap();
    let told: Vec<&str> = config.warnings.iter().map(|w| w.what.as_str()).filter(|w| w.contains("site")).collect();
    assert_eq!(told, Vec::<&str>::new());
    assert_eq!(config.destinations[1].endpoints[1].site.as_deref(), Some("west"));
    assert_eq!((config.sites[0].triggers.as_slice(), config.sites[0].leave_when_any), (["pacs".into()].as_slice(), false));
    for (site, said) in [
        ("name = \"north\"", vec!["`site` cannot be \"east\": there is no such site"; 2]),
        ("name = \"west\"", vec!["`site` cannot be \"east\": there is no such site", "`site` cannot be \"east\"", "two sites named \"west\""]),
        ("name = \"east\"\ntriggers = [\"pax\"]\nfollowers = \"ris\"", vec!["`triggers` cannot be \"pax\""]),
        ("name = \"east\"\ntriggers = [\"pacs\"]\nfollowers = [\"ris\", \"ris\"]", vec!["it stands there twice"]),
        ("name = \"east\"\nfollowers = \"ris\"", vec!["`followers` without `triggers`"]),
        ("name = \"east\"\nleave_when = \"some\"", vec!["`leave_when` cannot be"]),
    ] {
        let problems = problems(&sited(&format!("[[site]]\n{site}\n")));
        assert_eq!(problems.len(), said.len(), "{site}: {problems:?}");
        for said in said {
            assert!(problems.iter().any(|problem| problem.contains(said)), "{site}: {problems:?}");
        }
    }
    let stuck = good.replace("\"pacs-a.example.org:104\"", "\"pacs-a.example.org:104\"\nsite = \"east\"");
    let problems = problems(&stuck);
    assert!(problems.len() == 1 && problems[0].contains("\"pacs\" has no endpoint anywhere else, so it cannot leave"), "{problems:?}");
}

/// A whole file with one more key in one of its tables, and the line that the key stands in.
fn with_key(shape: &Shape, field: &Field, value: &str) -> (String, usize) {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let base = [
        ("the top of the file", "name = 'gw'\ndata_dir = 'data'"),
        ("[[listener]]", "name = 'in'\nprotocol = 'dicom'\nbind = '127.0.0.1:0'"),
        ("tls of a listener", "cert = 'gw.pem'\nkey = 'gw.key'"),
        ("[[destination]]", "name = 'pacs'\nprotocol = 'dicom'"),
        ("[[destination.endpoint]]", "name = 'a'\naddress = '127.0.0.1:104'\nae_title = 'PACS'"),
        ("tls of an endpoint", "ca = 'gw.pem'"),
        ("[[route]]", "to = 'pacs'"),
        ("[[site]]", "name = 'east'"),
    ];
    for (title, lines) in base {
        tables.insert(title, lines.lines().map(str::to_owned).collect());
    }
    let own = tables.entry(shape.title).or_default();
    own.retain(|line| !line.starts_with(&format!("{} =", field.name)));
    own.push(format!("{} = {value}", field.name));
    let headers = [
        ("the top of the file", ""),
        ("[admin]", "[admin]"),
        ("[spool]", "[spool]"),
        ("[names]", "[names]"),
        ("[[listener]]", "[[listener]]"),
        ("tls of a listener", "[listener.tls]"),
        ("[[destination]]", "[[destination]]"),
        ("retry", "[destination.retry]"),
        ("health", "[destination.health]"),
        ("drill", "[destination.drill]"),
        ("[[destination.endpoint]]", "[[destination.endpoint]]"),
        ("tls of an endpoint", "[destination.endpoint.tls]"),
        ("[[route]]", "[[route]]"),
        ("when", "[route.when]"),
        ("[[site]]", "[[site]]"),
    ];
    let mut source = String::new();
    let mut line = 0;
    for (title, header) in headers {
        if let Some(lines) = tables.get(title) {
            source += &format!("{header}\n{}\n", lines.join("\n"));
            if title == shape.title {
                line = source.lines().count();
            }
        }
    }
    (source, line)
}

/// Values that a key takes and values that it refuses; `None`: a table, whose keys have turns of their own.
fn samples(field: &Field) -> Option<(Vec<String>, Vec<String>)> {
    let quoted = |text: &str| format!("'{text}'");
    let mut bad: Vec<String> = ["{}", "1979-05-27", "0.5", "[[1]]"].map(str::to_owned).to_vec();
    let mut good = match &field.kind {
        Kind::Duration(min, max) => {
            bad.extend(["30", "'0ms'", "'366000d'", "'1h30m'", "''"].map(str::to_owned));
            bad.retain(|value| value != "'0ms'" || *min != "0s");
            vec![quoted(min), quoted(max)]
        }
        Kind::Size(min, max) => {
            bad.extend(["1024", "'0 KiB'", "'17179869184 GiB'", "'1 GB'"].map(str::to_owned));
            vec![quoted(min), quoted(max)]
        }
        Kind::Count(min, max) => {
            bad.extend([format!("{}", max + 1), "-1".to_owned(), "'7'".to_owned(), "true".to_owned()]);
            bad.extend(min.checked_sub(1).map(|below| below.to_string()));
            vec![min.to_string(), max.to_string(), format!("'${{{}}}'", max)]
        }
        Kind::Flag => {
            bad.extend(["'true'", "1"].map(str::to_owned));
            vec!["true".to_owned(), "false".to_owned()]
        }
        Kind::Choice(values) => {
            bad.extend(["'other'", "''", "1", "true"].map(str::to_owned));
            values.iter().map(|value| quoted(value)).collect()
        }
        Kind::Text(_) | Kind::Texts(_) => {
            bad.extend(["1", "true"].map(str::to_owned));
            Vec::new()
        }
        Kind::Table(_) | Kind::Tables(_) => return None,
    };
    if let Default::Value(default) = field.default {
        good.push(if matches!(field.kind, Kind::Count(..) | Kind::Flag) { default.to_owned() } else { quoted(default) });
    }
    if matches!(field.kind, Kind::Texts(_)) {
        bad.retain(|value| value != "[[1]]");
        bad.push("[1]".to_owned());
    }
    Some((good, bad))
}

#[test]
fn every_key_takes_what_it_says_and_refuses_the_rest_at_its_place() {
    let mut tried = 0;
    for shape in shapes() {
        for field in shape.fields {
            let Some((good, bad)) = samples(field) else { continue };
            let about = format!("`{}` ", field.name);
            let refused = format!("`{}` cannot be", field.name);
            for value in good {
                let found = found(shape, field, &value).0;
                assert!(
                    !found.iter().any(|problem| problem.contains(&refused) || problem.contains("unknown key")),
                    "{}: {} = {value}: {found:?}",
                    shape.title,
                    field.name
                );
            }
            for value in bad {
                let (found, line) = found(shape, field, &value);
                let column = field.name.len() + 4 + usize::from(value.starts_with("[1]"));
                let place = format!("{line}:{column}: {about}");
                assert!(
                    found.iter().any(|problem| problem.starts_with(&place)),
                    "{}: {} = {value}: {found:?}, not at {place}",
                    shape.title,
                    field.name
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "only {tried} bad values tried");
}

fn found(shape: &Shape, field: &Field, value: &str) -> (Vec<String>, usize) {
    let (source, line) = with_key(shape, field, value);
    let place = Place::new(&source);
    let file = place.file("everpost.toml");
    // A number that comes by way of the environment stands in its own name there.
    let problems = Config::load_with(&file, &|name| Some(name.to_owned())).err().unwrap_or_default();
    (problems.iter().map(|problem| format!("{}:{}: {}", problem.line, problem.column, problem.what)).collect(), line)
}

/// The reference page, from the shapes.
fn page() -> String {
    let mut page = String::from(PREFACE);
    for shape in shapes() {
        page += &format!("\n## {}\n\n{}\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n", heading(shape.title), shape.meaning);
        for field in shape.fields {
            let default = match field.default {
                Default::Required => "must be given".to_owned(),
                Default::Value(text) if matches!(field.kind, Kind::Count(..) | Kind::Flag) => format!("`{text}`"),
                Default::Value(text) => format!("`\"{text}\"`"),
                Default::Depends(text) => text.to_owned(),
            };
            let later = if field.acting { "" } else { " *(read and checked, not acting in this version)*" };
            let cell = |text: String| text.replace('|', "\\|");
            page +=
                &format!("| `{}` | {} | {} | {}{later} |\n", field.name, cell(field.kind.describe()), cell(default), cell(field.meaning.to_owned()));
        }
    }
    page
}

fn heading(title: &str) -> String {
    if title.starts_with('[') || !title.contains(' ') { format!("`{title}`") } else { title[..1].to_uppercase() + &title[1..] }
}

const PREFACE: &str = include_str!("preface.md");

#[test]
fn the_reference_page_says_what_the_parser_takes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, page()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is not what the parser takes: run UPDATE=1 cargo test -p everpost-gateway --lib reference_page"
    );
}

#[test]
fn no_slip_of_the_keyboard_brings_it_down() {
    let place = Place::new("");
    let file = place.file("everpost.toml");
    let lines = EXAMPLE.lines().count() + 2;
    let slips = ["", "\"", "[", "=", "\n", "$", "."];
    for at in (0..EXAMPLE.len()).step_by(3).filter(|at| EXAMPLE.is_char_boundary(*at)) {
        let slip = slips[at % slips.len()];
        let source = format!("{}{slip}{}", &EXAMPLE[..at], &EXAMPLE[at + usize::from(slip.is_empty())..]);
        std::fs::write(&file, source).unwrap();
        for problem in Config::load_with(&file, &|_| None).err().unwrap_or_default() {
            assert!((1..=lines).contains(&problem.line) && problem.column > 0, "{at} {slip:?}: {problem}");
            assert!(!problem.what.is_empty() && !problem.remedy.is_empty(), "{at} {slip:?}: {problem}");
        }
    }
    for open in ["[", "{a=", "[{a="] {
        std::fs::write(&file, "x = ".to_owned() + &open.repeat(10_000)).unwrap();
        assert!(Config::load_with(&file, &|_| None).is_err());
    }
}
