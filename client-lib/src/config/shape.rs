//! What a table of the configuration may hold: one description of each key that the reader, the reference page and the tests share.
//! Rules: default and range of a key stand here and nowhere else; a key that is read but does not act yet says so (`acting: false`).
//! Errors: none.

/// The keys of one table.
#[derive(Debug)]
pub struct Shape {
    /// As people write it: `[[destination]]`, `health`.
    pub title: &'static str,
    /// One or two sentences for the reference page.
    pub meaning: &'static str,
    /// In the order of the reference page.
    pub fields: &'static [Field],
}

impl Shape {
    /// The description of a key.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One key.
#[derive(Debug)]
pub struct Field {
    /// As written in the file.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it is without being written.
    pub default: Default,
    /// For the reference page.
    pub meaning: &'static str,
    /// False: read and checked, not acting in this version.
    pub acting: bool,
}

/// What a key is when it is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It must be written.
    Required,
    /// This value, as it would be written (without quotes).
    Value(&'static str),
    /// It depends; the text says on what.
    Depends(&'static str),
}

/// What values a key takes.
#[derive(Debug)]
pub enum Kind {
    /// A string such as `"30s"`, from the first to the second.
    Duration(&'static str, &'static str),
    /// A string such as `"64 MiB"`, from the first to the second.
    Size(&'static str, &'static str),
    /// A whole number, from the first to the second.
    Count(u64, u64),
    /// `true` or `false`.
    Flag,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A string; the text says of which form.
    Text(&'static str),
    /// A string or a list of strings; the text says of which form.
    Texts(&'static str),
    /// A table with keys of its own.
    Table(&'static Shape),
    /// A list of tables with keys of their own.
    Tables(&'static Shape),
}

impl Kind {
    /// For messages and the reference page.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Kind::Duration(min, max) => format!("a duration from \"{min}\" to \"{max}\""),
            Kind::Size(min, max) => format!("a size from \"{min}\" to \"{max}\""),
            Kind::Count(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Choice(values) => {
                let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
                quoted.join(" or ")
            }
            Kind::Text(form) => (*form).to_owned(),
            Kind::Texts(form) => format!("{form}, or a list of them"),
            Kind::Table(shape) => format!("a table: {}", shape.title),
            Kind::Tables(shape) => format!("tables: {}", shape.title),
        }
    }
}

/// A key that acts.
#[must_use]
pub const fn field(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Field {
    Field { name, kind, default, meaning, acting: true }
}

/// A key that is read and checked and does not act in this version.
#[must_use]
pub const fn later(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Field {
    Field { name, kind, default, meaning, acting: false }
}
