//! The codes of the C ABI. Numbers are never reused.

/// `everpost_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// A pointer is NULL or a string is not UTF-8.
    Argument = 1,
    /// The configuration is wrong.
    Configuration = 2,
    /// Another process has the data directory.
    InUse = 3,
    /// The disk failed.
    Storage = 4,
    /// A fault in the library.
    Internal = 99,
}
