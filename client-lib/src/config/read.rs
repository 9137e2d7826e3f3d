//! Reads tables of the configuration by their shapes.
//! Rules: reading never stops at the first problem: a value that is wrong is noted and its default goes on in its place, and whoever asked
//! throws everything away if anything was noted. `${NAME}` in a string is replaced from the environment, `$${` is a literal `${`; replaced text
//! may stand for a number, `true` or `false` too. Replaced values are never shown.
//! Errors: noted with the byte span of what is wrong.

use super::shape::{Default, Field, Kind, Shape};
use super::units;
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something noted while reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct ConfigError {
    /// Bytes of the source it concerns.
    pub span: Range<usize>,
    /// What is wrong, or worth knowing.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// TLS settings that were read, for whoever can open their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsUse {
    /// Of an endpoint, with the host it is at.
    Client(super::TlsClient, String),
    /// Of a listener.
    Server(super::TlsServer),
}

/// One reading of one source: what everything that reads needs, and what it noted.
pub struct Reading<'a> {
    source: &'a str,
    base: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    tls: RefCell<Vec<(Range<usize>, TlsUse)>>,
    files: RefCell<Vec<(Range<usize>, PathBuf)>>,
}

/// What a reading noted.
#[derive(Debug)]
pub struct Notes {
    /// What must be mended; in order of place.
    pub problems: Vec<ConfigError>,
    /// What is worth knowing; in order of place.
    pub warnings: Vec<ConfigError>,
    /// TLS settings with their places.
    pub tls: Vec<(Range<usize>, TlsUse)>,
    /// Other files that must be readable, with their places.
    pub files: Vec<(Range<usize>, PathBuf)>,
}

impl<'a> Reading<'a> {
    /// Of a source whose relative paths begin at `base`.
    pub fn new(source: &'a str, base: &'a Path, environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let (problems, warnings, tls, files) = (RefCell::default(), RefCell::default(), RefCell::default(), RefCell::default());
        Self { source, base, environment, problems, warnings, tls, files }
    }

    /// Takes the TOML apart. What is not TOML is noted; the rest goes on.
    pub fn document(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.source);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.problem(span, error.message().to_owned(), "correct the TOML");
        }
        table
    }

    /// Notes what must be mended.
    pub fn problem(&self, span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.borrow_mut().push(ConfigError { span, what: what.into(), remedy: remedy.into() });
    }

    /// Whether anything must be mended.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// Notes what is worth knowing.
    pub fn warning(&self, span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.borrow_mut().push(ConfigError { span, what: what.into(), remedy: remedy.into() });
    }

    /// Keeps TLS settings for whoever can open their files.
    pub fn tls(&self, span: Range<usize>, settings: TlsUse) {
        self.tls.borrow_mut().push((span, settings));
    }

    /// Keeps a file that must be readable, for whoever can look.
    pub fn file(&self, span: Range<usize>, path: PathBuf) {
        self.files.borrow_mut().push((span, path));
    }

    /// A path relative to the file.
    #[must_use]
    pub fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    /// Ends the reading.
    #[must_use]
    pub fn finish(self) -> Notes {
        let (mut problems, mut warnings) = (self.problems.into_inner(), self.warnings.into_inner());
        for notes in [&mut problems, &mut warnings] {
            notes.sort_by_key(|note| note.span.start);
            // A key that is looked at twice is told once.
            notes.dedup();
        }
        Notes { problems, warnings, tls: self.tls.into_inner(), files: self.files.into_inner() }
    }

    /// Replaces `${NAME}`. `None`: something was wrong and is noted.
    fn replace(&self, text: &str, span: &Range<usize>) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$${") {
                out.push_str("${");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let Some((name, after)) = after.split_once('}') else {
                    self.problem(span.clone(), "`${` without `}`", "close it, or write `$${` for a literal `${`");
                    return None;
                };
                out.push_str(&self.variable(name, span)?);
                rest = after;
            } else {
                out.push('$');
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
        Some(out)
    }

    fn variable(&self, name: &str, span: &Range<usize>) -> Option<String> {
        // The exact place, if the value stands in the source as it is read (no escapes before it).
        let written = format!("${{{name}}}");
        let inside = self.source.get(span.clone()).and_then(|value| value.find(&written));
        let place = inside.map_or_else(|| span.clone(), |at| span.start + at..span.start + at + written.len());
        let well_formed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.is_empty();
        if !well_formed {
            self.problem(place, format!("`{written}` names no environment variable"), "use letters, digits and _; write `$${` for a literal `${`");
            return None;
        }
        let value = (self.environment)(name);
        if value.is_none() {
            self.problem(
                place,
                format!("the environment variable {name} is not set"),
                "set it where the gateway is started, or write the value here",
            );
        }
        value
    }
}

/// A string value as it was understood.
#[derive(Debug, Clone)]
pub struct Text {
    /// With the environment replaced.
    pub value: String,
    /// As written; what messages show.
    pub written: String,
    /// Its place.
    pub span: Range<usize>,
}

/// One table while it is read.
pub struct Section<'a> {
    reading: &'a Reading<'a>,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    shape: &'static Shape,
}

impl<'a> Section<'a> {
    /// Begins to read a table. Unknown keys and keys that do not act are noted here.
    #[must_use]
    pub fn open(reading: &'a Reading<'a>, table: &'a DeTable<'a>, span: Range<usize>, shape: &'static Shape) -> Self {
        let section = Self { reading, table, span, shape };
        for (key, value) in table {
            match shape.field(key.get_ref()) {
                None => section.unknown(key.get_ref(), key.span()),
                Some(field) if !field.acting && !is_default(field, value.get_ref()) => section.reading.warning(
                    key.span(),
                    format!("`{}` is read and checked, not acting in this version", field.name),
                    "leave it for a later version, or remove it",
                ),
                Some(_) => {}
            }
        }
        section
    }

    fn unknown(&self, key: &str, span: Range<usize>) {
        let nearest = self.shape.fields.iter().map(|field| (distance(key, field.name), field.name)).min();
        let remedy = match nearest {
            // In a short word two changes make any other one.
            Some((distance, name)) if distance <= 2 && distance * 2 <= key.chars().count() => format!("did you mean `{name}`?"),
            _ => {
                let known: Vec<&str> = self.shape.fields.iter().map(|field| field.name).collect();
                format!("known here: {}", known.join(", "))
            }
        };
        self.reading.problem(span, format!("unknown key `{key}` in {}", self.shape.title), remedy);
    }

    /// The reading it belongs to.
    #[must_use]
    pub fn reading(&self) -> &'a Reading<'a> {
        self.reading
    }

    /// Its place.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The keys that are written, do not say their default and do not act in this version.
    #[must_use]
    pub fn not_acting(&self) -> Vec<String> {
        let written = |field: &&Field| self.table.get(field.name).is_some_and(|value| !field.acting && !is_default(field, value.get_ref()));
        self.shape.fields.iter().filter(written).map(|field| field.name.to_owned()).collect()
    }

    /// Whether a key is written.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The place of a key's value, or of the table.
    #[must_use]
    pub fn place(&self, name: &str) -> Range<usize> {
        self.table.get(name).map_or_else(|| self.span(), Spanned::span)
    }

    /// Notes that a written key means nothing here.
    pub fn pointless(&self, name: &str, why: &str) {
        if let Some((key, _)) = self.table.get_key_value(name) {
            self.reading.warning(key.span(), format!("`{name}` means nothing {why}"), "remove it");
        }
    }

    /// The written value and the description of a key. A required key that is missing is noted.
    fn find(&self, name: &str) -> Option<(&'static Field, Option<&'a Spanned<DeValue<'a>>>)> {
        let Some(field) = self.shape.field(name) else {
            // A slip in this program, found by the test that reads every key.
            self.reading.problem(self.span(), format!("`{name}` is not described in {}", self.shape.title), "report this to the maintainers");
            return None;
        };
        let value = self.table.get(name);
        if value.is_none() && field.default == Default::Required {
            self.reading.problem(self.span(), format!("{} has no `{name}`", self.shape.title), format!("add it: {}", field.kind.describe()));
        }
        Some((field, value))
    }

    fn wrong(&self, field: &Field, value: &Spanned<DeValue<'_>>) {
        let shown = shown(self.reading.source, &value.span());
        self.reading.problem(value.span(), format!("`{}` cannot be {shown}", field.name), format!("it is {}", field.kind.describe()));
    }

    /// A value as text: strings with the environment replaced; `None` if it is none or something was wrong and is noted.
    fn as_text(&self, field: &Field, value: &Spanned<DeValue<'_>>) -> Option<Text> {
        let Some(written) = value.get_ref().as_str() else {
            self.wrong(field, value);
            return None;
        };
        let replaced = self.reading.replace(written, &value.span())?;
        Some(Text { value: replaced, written: written.to_owned(), span: value.span() })
    }

    /// A number, `true` or `false` as text: written plainly, or by way of the environment.
    fn plain(&self, field: &Field, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str().to_owned()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            DeValue::String(text) if text.contains("${") => self.reading.replace(text, &value.span()),
            _ => {
                self.wrong(field, value);
                None
            }
        }
    }

    /// A value in a unit, between the bounds of its description.
    fn quantity<T: PartialOrd + Copy>(&self, name: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
        let (field, value) = self.find(name)?;
        let (Kind::Duration(min, max) | Kind::Size(min, max)) = field.kind else { return None };
        let default = if let Default::Value(text) = field.default { parse(text) } else { None };
        let Some(value) = value else { return default };
        let Some(text) = self.as_text(field, value) else { return default };
        match (parse(&text.value), parse(min), parse(max)) {
            (Some(quantity), Some(min), Some(max)) if (min..=max).contains(&quantity) => Some(quantity),
            _ => {
                self.wrong(field, value);
                default
            }
        }
    }

    /// A duration, or its default; zero if it has none.
    #[must_use]
    pub fn duration(&self, name: &str) -> Duration {
        self.quantity(name, units::duration).unwrap_or_default()
    }

    /// A duration, if it is written or has a default.
    #[must_use]
    pub fn duration_if(&self, name: &str) -> Option<Duration> {
        self.quantity(name, units::duration)
    }

    /// A size in bytes, or its default.
    #[must_use]
    pub fn size(&self, name: &str) -> u64 {
        self.quantity(name, units::size).unwrap_or_default()
    }

    /// A whole number, or its default.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        let Some((field, value)) = self.find(name) else { return 0 };
        let Kind::Count(min, max) = field.kind else { return 0 };
        let default = if let Default::Value(text) = field.default { text.parse().unwrap_or(min) } else { min };
        let Some(value) = value else { return default };
        let Some(text) = self.plain(field, value) else { return default };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                self.wrong(field, value);
                default
            }
        }
    }

    /// `true` or `false`, or its default.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        let Some((field, value)) = self.find(name) else { return false };
        let default = field.default == Default::Value("true");
        let Some(value) = value else { return default };
        match self.plain(field, value).as_deref() {
            Some("true") => true,
            Some("false") => false,
            Some(_) => {
                self.wrong(field, value);
                default
            }
            None => default,
        }
    }

    /// The place of the chosen string among the choices, or of the default; `None` if it has none.
    #[must_use]
    pub fn choice(&self, name: &str) -> Option<&'static str> {
        let (field, value) = self.find(name)?;
        let Kind::Choice(choices) = field.kind else { return None };
        let default = if let Default::Value(text) = field.default { Some(text) } else { None };
        let Some(value) = value else { return default };
        let Some(text) = self.as_text(field, value) else { return default };
        let chosen = choices.iter().find(|choice| **choice == text.value).copied();
        if chosen.is_none() {
            self.wrong(field, value);
        }
        chosen.or(default)
    }

    /// A string, if it is written.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Text> {
        let (field, value) = self.find(name)?;
        self.as_text(field, value?)
    }

    /// A list of strings; a single string is a list of one; empty if it is not written.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<Text> {
        let Some((field, Some(value))) = self.find(name) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(values) => values.iter().filter_map(|value| self.as_text(field, value)).collect(),
            _ => self.as_text(field, value).into_iter().collect(),
        }
    }

    /// Notes that a string does not have the form its description asks for.
    pub fn malformed(&self, name: &str, text: &Text, why: &str) {
        let form = self.shape.field(name).map(|field| field.kind.describe()).unwrap_or_default();
        self.reading.problem(text.span.clone(), format!("`{name}` cannot be \"{}\": {why}", text.written), format!("it is {form}"));
    }

    /// A table with keys of its own, if it is written.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<Section<'a>> {
        let (field, value) = self.find(name)?;
        let (value, Kind::Table(shape)) = (value?, &field.kind) else { return None };
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::open(self.reading, table, value.span(), shape)),
            _ => {
                self.wrong(field, value);
                None
            }
        }
    }

    /// A list of tables with keys of their own.
    #[must_use]
    pub fn tables(&self, name: &str) -> Vec<Section<'a>> {
        let Some((field, Some(value))) = self.find(name) else { return Vec::new() };
        let Kind::Tables(shape) = field.kind else { return Vec::new() };
        let DeValue::Array(values) = value.get_ref() else {
            let what = format!("`{name}` is not a list of tables");
            self.reading.problem(value.span(), what, format!("write {} above each of them", shape.title));
            return Vec::new();
        };
        let open = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(table) => Some(Section::open(self.reading, table, value.span(), shape)),
            _ => {
                self.wrong(field, value);
                None
            }
        };
        values.iter().filter_map(open).collect()
    }
}

/// What stands in the source, short enough for a message.
fn shown(source: &str, span: &Range<usize>) -> String {
    let written = source.get(span.clone()).unwrap_or_default();
    let mut line: String = written.chars().take_while(|c| *c != '\n').take(60).collect();
    if line.len() < written.len() {
        line.push_str("...");
    }
    line
}

/// Whether a value that does not act says what would be without it.
fn is_default(field: &Field, value: &DeValue<'_>) -> bool {
    let Default::Value(default) = field.default else { return false };
    match (value, &field.kind) {
        (DeValue::String(text), Kind::Duration(..)) => units::duration(text).is_some() && units::duration(text) == units::duration(default),
        (DeValue::String(text), _) => text == default,
        (DeValue::Integer(number), _) => number.as_str() == default,
        (DeValue::Boolean(flag), _) => flag.to_string() == default,
        _ => false,
    }
}

/// Edits that turn one key into the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// Line and column of a byte, both from 1, the column in characters.
#[must_use]
pub fn position(source: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(source.len());
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    let before = &source[..end];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::shape::field;
    use super::*;

    const INNER: Shape = Shape { title: "[inner]", meaning: "", fields: &[field("flag", Kind::Flag, Default::Value("false"), "")] };
    const OUTER: Shape = Shape {
        title: "the file",
        meaning: "",
        fields: &[
            field("wait", Kind::Duration("1s", "1h"), Default::Value("30s"), ""),
            field("room", Kind::Size("1 KiB", "1 GiB"), Default::Value("1 MiB"), ""),
            field("many", Kind::Count(1, 9), Default::Value("3"), ""),
            field("word", Kind::Text("a word"), Default::Depends("none"), ""),
            field("words", Kind::Texts("a word"), Default::Depends("none"), ""),
            field("one_of", Kind::Choice(&["a", "b"]), Default::Value("a"), ""),
            field("needed", Kind::Count(1, 9), Default::Required, ""),
            field("inner", Kind::Table(&INNER), Default::Depends("none"), ""),
            super::super::shape::later("future", Kind::Duration("0s", "1h"), Default::Value("0s"), ""),
        ],
    };

    /// What is noted while `read` reads, as `line:column: text`.
    fn notes(source: &str, read: impl Fn(&Section<'_>)) -> (Vec<String>, Vec<String>) {
        let environment = |name: &str| match name {
            "NINE" => Some("9".to_owned()),
            "YES" => Some("true".to_owned()),
            "WORD" => Some("secret".to_owned()),
            _ => None,
        };
        let reading = Reading::new(source, Path::new("/etc"), &environment);
        let document = reading.document();
        if !reading.has_problems() {
            read(&Section::open(&reading, document.get_ref(), 0..0, &OUTER));
        }
        let notes = reading.finish();
        let placed = |notes: &[ConfigError]| {
            let place = |note: &ConfigError| {
                let (line, column) = position(source, note.span.start);
                format!("{line}:{column}: {note}")
            };
            notes.iter().map(place).collect()
        };
        (placed(&notes.problems), placed(&notes.warnings))
    }

    #[test]
    fn values_are_read_and_defaults_stand_in() {
        let (problems, warnings) = notes("wait = '2m'\nroom = '2 MiB'\nmany = 9\none_of = 'b'\nwords = ['x', 'y']\nneeded = 1\n", |section| {
            assert_eq!(section.duration("wait"), Duration::from_secs(120));
            assert_eq!(section.size("room"), 2 << 20);
            assert_eq!(section.count("many"), 9);
            assert_eq!(section.choice("one_of"), Some("b"));
            assert_eq!(section.texts("words").len(), 2);
            assert!(section.table("inner").is_none());
        });
        assert_eq!((problems, warnings), (vec![], vec![]));
        notes("needed = 1", |section| {
            assert_eq!(section.duration("wait"), Duration::from_secs(30));
            assert_eq!(section.count("many"), 3);
            assert_eq!(section.choice("one_of"), Some("a"));
        });
    }

    #[test]
    fn every_problem_is_noted_at_its_place() {
        let source =
            "wait = 30\nroom = '1 GB'\nmany = 10\nword = 7\nwords = ['x', 2]\none_of = 'c'\nwrod = 'x'\nzebra = 1\nrod = 1\n[inner]\nflag = 'yes'\n";
        let (problems, _) = notes(source, |section| {
            let _ = (section.duration("wait"), section.size("room"), section.count("many"), section.choice("one_of"), section.count("needed"));
            let _ = (section.text("word"), section.texts("words"), section.table("inner").map(|inner| inner.flag("flag")));
        });
        let expected = [
            "1:1: the file has no `needed`; add it: a whole number from 1 to 9",
            "1:8: `wait` cannot be 30; it is a duration from \"1s\" to \"1h\"",
            "2:8: `room` cannot be '1 GB'; it is a size from \"1 KiB\" to \"1 GiB\"",
            "3:8: `many` cannot be 10; it is a whole number from 1 to 9",
            "4:8: `word` cannot be 7; it is a word",
            "5:15: `words` cannot be 2; it is a word, or a list of them",
            "6:10: `one_of` cannot be 'c'; it is \"a\" or \"b\"",
            "7:1: unknown key `wrod` in the file; did you mean `word`?",
            "8:1: unknown key `zebra` in the file; known here: wait, room, many, word, words, one_of, needed, inner, future",
            "9:1: unknown key `rod` in the file; known here: wait, room, many, word, words, one_of, needed, inner, future",
            "11:8: `flag` cannot be 'yes'; it is true or false",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn the_environment_stands_in_and_positions_stay() {
        let source = "word = 'a ${WORD} $${WORD} $x'\nmany = '${NINE}'\nneeded = 1\n[inner]\nflag = '${YES}'\n";
        let (problems, _) = notes(source, |section| {
            let word = section.text("word").unwrap();
            assert_eq!((word.value.as_str(), word.written.as_str()), ("a secret ${WORD} $x", "a ${WORD} $${WORD} $x"));
            assert_eq!(section.count("many"), 9);
            assert!(section.table("inner").unwrap().flag("flag"));
        });
        assert_eq!(problems, Vec::<String>::new());
        let source = "# ${IGNORED}\nword = 'ä ${UNSET}'\nwords = ['${', '${A B}']\nwait = '${WORD}'\nneeded = 1\n";
        let (problems, _) = notes(source, |section| {
            let _ = (section.text("word"), section.texts("words"), section.duration("wait"));
        });
        let expected = [
            "2:11: the environment variable UNSET is not set; set it where the gateway is started, or write the value here",
            "3:10: `${` without `}`; close it, or write `$${` for a literal `${`",
            "3:17: `${A B}` names no environment variable; use letters, digits and _; write `$${` for a literal `${`",
            "4:8: `wait` cannot be '${WORD}'; it is a duration from \"1s\" to \"1h\"",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn keys_that_do_not_act_are_told_unless_they_say_the_default() {
        let (problems, warnings) = notes("future = '2m'\n", |_| ());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(warnings, ["1:1: `future` is read and checked, not acting in this version; leave it for a later version, or remove it"]);
        assert_eq!(notes("future = '0m'\n", |_| ()).1, Vec::<String>::new());
    }

    #[test]
    fn every_slip_in_the_toml_is_noted() {
        let (problems, _) = notes("wait = \nroom = 'x\nmany = 1\nmany = 2\n", |_| ());
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(problems[0].starts_with("1:"), "{problems:?}");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("ab\näö x", 0), (1, 1));
        assert_eq!(position("ab\näö x", 3 + 4), (2, 3));
        assert_eq!(position("ab\n", 99), (2, 1));
        assert_eq!(position("ä", 1), (1, 1));
    }
}
