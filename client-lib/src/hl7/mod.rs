//! HL7 v2: what a gateway must read of a message, and the answers it gives and takes. Bytes are never rewritten.
//! Rules: only header, patient and order segments are read, at byte level, whatever the delimiters and the character set; nothing else is parsed.
//! Errors: `message::Malformed`, which carries the code of table 0357 to answer with.

pub mod ack;
pub mod charset;
pub mod message;
