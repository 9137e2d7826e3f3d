//! What a client is opened with: TOML from a file or a string, and what the program sets itself.
//! Rules: what the program sets replaces what the source says; problems are told as `file:line:column: what; remedy`, all at once.
//! Errors: `ClientError::Configuration`.

use super::error::ClientError;
use crate::config::destination::{ClientSettings, read_client};
use crate::config::read::{Reading, position};
use crate::limits::CONFIG_BYTES_MAX;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Settings of a client.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    source: String,
    /// What the source is called in messages.
    label: String,
    /// What relative paths start from.
    base: PathBuf,
    data_dir: Option<PathBuf>,
}

/// What a source without a destination lacks.
const SOME_DESTINATION: &str =
    "\n[[destination]]\nname = \"some\"\nprotocol = \"mllp\"\n[[destination.endpoint]]\nname = \"some\"\naddress = \"127.0.0.1:1\"\n";

fn wrong(what: impl Into<String>) -> ClientError {
    ClientError::Configuration(what.into())
}

impl Settings {
    /// Nothing is set.
    #[must_use]
    pub fn new() -> Settings {
        Settings::default()
    }

    /// From TOML: `data_dir`, `[client]`, `[spool]`, `[[destination]]`. Relative paths start from the working directory.
    /// # Errors
    /// `Configuration`.
    pub fn from_toml(source: &str) -> Result<Settings, ClientError> {
        let mut settings = Settings::new();
        settings.load_toml(source)?;
        Ok(settings)
    }

    /// Reads TOML in place of what was read or set before, and checks it. It may leave `data_dir` and the destinations to the program.
    /// # Errors
    /// `Configuration`; then nothing has changed.
    pub fn load_toml(&mut self, source: &str) -> Result<(), ClientError> {
        self.take(Settings { source: source.to_owned(), label: String::new(), base: PathBuf::new(), data_dir: self.data_dir.clone() })
    }

    /// The same from a file. Relative paths in it start from its folder.
    /// # Errors
    /// `Configuration`, also for a file that cannot be read.
    pub fn load_file(&mut self, path: &Path) -> Result<(), ClientError> {
        let failed = |e: std::io::Error| wrong(format!("{}: {e}; name a file that can be read", path.display()));
        let mut source = String::new();
        fs::File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut source)).map_err(failed)?;
        if source.len() as u64 > CONFIG_BYTES_MAX {
            return Err(wrong(format!("{}: larger than {CONFIG_BYTES_MAX} bytes; it is no configuration", path.display())));
        }
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        self.take(Settings { source, label: path.display().to_string(), base, data_dir: self.data_dir.clone() })
    }

    fn take(&mut self, new: Settings) -> Result<(), ClientError> {
        if new.table()?.contains_key("destination") {
            new.read()?;
        } else {
            // The program may add its own: the rest is checked with one behind it, where it changes no line.
            let (source, label, base) = (new.source.clone() + SOME_DESTINATION, new.label.clone(), new.base.clone());
            Settings { source, label, base, data_dir: None }.read()?;
        }
        *self = new;
        Ok(())
    }

    /// Where the spool is; replaces `data_dir` of the source.
    pub fn set_data_dir(&mut self, path: impl Into<PathBuf>) {
        self.data_dir = Some(path.into());
    }

    /// Adds a destination. `protocol` is `mllp` or `dicom`.
    /// # Errors
    /// `Configuration` if there is one of this name.
    pub fn add_destination(&mut self, name: &str, protocol: &str) -> Result<(), ClientError> {
        self.change(|table| {
            if destination(table, name).is_some() {
                return Err(wrong(format!("there are two destinations named \"{name}\"; give each a name of its own")));
            }
            let new = Table::from_iter([("name".to_owned(), Value::from(name)), ("protocol".to_owned(), Value::from(protocol))]);
            push(table, "destination", new)
        })
    }

    /// Adds an endpoint behind those that a destination has. `address` is `host:port`; `ae_title` is needed for DICOM and left out for HL7.
    /// # Errors
    /// `Configuration` if there is no such destination.
    pub fn add_endpoint(&mut self, to: &str, name: &str, address: &str, ae_title: Option<&str>) -> Result<(), ClientError> {
        self.change(|table| {
            let Some(table) = destination(table, to) else { return Err(wrong(format!("there is no destination \"{to}\"; add it first"))) };
            let mut new = Table::from_iter([("name".to_owned(), Value::from(name)), ("address".to_owned(), Value::from(address))]);
            if let Some(title) = ae_title {
                new.insert("ae_title".to_owned(), Value::from(title));
            }
            push(table, "endpoint", new)
        })
    }

    /// Sets one key to a TOML value (`"30s"` with its quotes, `4`, `{ probe = "tcp" }`). `place` is empty for the top, `client`, `spool`, `names`, the
    /// name of a destination, or `DESTINATION/ENDPOINT`.
    /// # Errors
    /// `Configuration` if there is no such table, or the value is no TOML.
    pub fn set(&mut self, place: &str, key: &str, value: &str) -> Result<(), ClientError> {
        let parsed = format!("value = {value}\n").parse::<Table>().ok().filter(|t| t.len() == 1).and_then(|mut t| t.remove("value"));
        let value = parsed.ok_or_else(|| wrong(format!("{value} is no TOML value; strings need their quotes")))?;
        self.change(|table| {
            let table = match place.split_once('/') {
                _ if place.is_empty() => Some(table),
                Some((to, endpoint)) => destination(table, to).and_then(|d| named(d, "endpoint", endpoint)),
                None if matches!(place, "client" | "spool" | "names") => {
                    table.entry(place).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
                }
                None => destination(table, place),
            };
            let table = table
                .ok_or_else(|| wrong(format!("there is no table \"{place}\": use client, spool, names, DESTINATION or DESTINATION/ENDPOINT")))?;
            table.insert(key.to_owned(), value);
            Ok(())
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut Table) -> Result<(), ClientError>) -> Result<(), ClientError> {
        let mut table = self.table()?;
        change(&mut table)?;
        self.source = table.to_string();
        self.label = "the settings".to_owned();
        Ok(())
    }

    fn table(&self) -> Result<Table, ClientError> {
        self.source.parse::<Table>().map_err(|e| {
            let (line, column) = position(&self.source, e.span().map_or(0, |span| span.start));
            wrong(format!("{}{line}:{column}: {}; correct the TOML", self.prefix(), e.message()))
        })
    }

    fn prefix(&self) -> String {
        if self.label.is_empty() { String::new() } else { format!("{}:", self.label) }
    }

    /// Everything, checked.
    pub(super) fn read(&self) -> Result<ClientSettings, ClientError> {
        let environment = |name: &str| std::env::var(name).ok();
        let read = read_client(Reading::new(&self.source, &self.base, &environment));
        read.map_err(|problems| {
            let line = |p: &crate::config::ConfigError| {
                let (line, column) = position(&self.source, p.span.start);
                format!("{}{line}:{column}: {p}", self.prefix())
            };
            wrong(problems.iter().map(line).collect::<Vec<_>>().join("\n"))
        })
    }

    /// Where the spool is.
    pub(super) fn data_dir(&self, read: &ClientSettings) -> Result<PathBuf, ClientError> {
        let found = self.data_dir.clone().or_else(|| read.data_dir.clone());
        found.ok_or_else(|| wrong("there is no `data_dir`; name a folder for the spool, for this program alone"))
    }
}

fn destination<'t>(table: &'t mut Table, name: &str) -> Option<&'t mut Table> {
    named(table, "destination", name)
}

fn named<'t>(table: &'t mut Table, list: &str, name: &str) -> Option<&'t mut Table> {
    let tables = table.get_mut(list)?.as_array_mut()?;
    tables.iter_mut().filter_map(Value::as_table_mut).find(|t| t.get("name").and_then(Value::as_str) == Some(name))
}

fn push(table: &mut Table, list: &str, new: Table) -> Result<(), ClientError> {
    let list_of = table.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    list_of.as_array_mut().ok_or_else(|| wrong(format!("`{list}` is no list of tables")))?.push(Value::Table(new));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_program_can_set_all_by_itself() {
        let mut settings = Settings::new();
        settings.add_destination("ris", "mllp").unwrap();
        settings.add_endpoint("ris", "a", "127.0.0.1:1", None).unwrap();
        settings.add_endpoint("ris", "b", "127.0.0.1:2", None).unwrap();
        settings.set("ris", "ack_timeout", "\"2s\"").unwrap();
        settings.set("ris/b", "weight", "7").unwrap();
        settings.set("spool", "reserve", "\"1 MiB\"").unwrap();
        settings.set("names", "servers", "[\"127.0.0.1:53\"]").unwrap();
        settings.set_data_dir("there");
        let read = settings.read().unwrap();
        assert_eq!(settings.data_dir(&read).unwrap(), PathBuf::from("there"));
        assert_eq!(read.destinations[0].ack_timeout.as_secs(), 2);
        assert_eq!(read.destinations[0].endpoints[1].weight, 7);
        assert_eq!(read.spool.reserve, 1 << 20);
        assert_eq!(read.names.servers.len(), 1);
        for problem in [
            settings.add_destination("ris", "mllp"),
            settings.add_endpoint("pacs", "a", "h:1", None),
            settings.set("pacs", "window", "2"),
            settings.set("ris", "window", "a b"),
            settings.set("ris", "window", "1\nother = 2"),
        ] {
            assert!(matches!(problem, Err(ClientError::Configuration(_))), "{problem:?}");
        }
    }

    #[test]
    fn problems_name_their_place() {
        let mut settings = Settings::new();
        let problem = settings.load_toml("[[destination]]\nname = \"x\"\nprotocl = 1\n").unwrap_err().to_string();
        assert!(problem.lines().any(|line| line.starts_with("3:1: ")), "{problem}");
        let problem = settings.load_toml("a = = 1").unwrap_err().to_string();
        assert!(problem.starts_with("1:"), "{problem}");
        let problem = settings.load_toml("data_dir = \"x\"\n[[destinaton]]\n").unwrap_err().to_string();
        assert!(problem.starts_with("2:") && problem.contains("destinaton") && problem.lines().count() == 1, "{problem}");
        settings.load_toml("[spool]\nreserve = \"1 MiB\"").unwrap();
        settings.load_toml("").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[[destination]]\n").unwrap();
        let problem = settings.load_file(&path).unwrap_err().to_string();
        assert!(problem.starts_with(&format!("{}:1:", path.display())), "{problem}");
        assert!(settings.load_file(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_folder_is_needed() {
        let settings =
            Settings::from_toml("[[destination]]\nname='r'\nprotocol='mllp'\n[[destination.endpoint]]\nname='a'\naddress='h:1'\n").unwrap();
        assert!(settings.data_dir(&settings.read().unwrap()).unwrap_err().to_string().contains("data_dir"));
    }
}
