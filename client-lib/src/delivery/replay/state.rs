//! What a restart must know of replays, as bytes: little endian, version first.
//! Rules: written with the order it belongs to; what cannot be read is as if nothing had been remembered.
//! Errors: none.

use super::{ByHand, Past, Purpose};
use crate::spool::{Mark, Range, Since};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const VERSION: u8 = 2;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) last_id: u64,
    pub(super) past: BTreeMap<Arc<str>, Past>,
    pub(super) purpose: Option<Purpose>,
}

impl Saved {
    pub(super) fn put(&self) -> Vec<u8> {
        let mut out = Writer(vec![VERSION]);
        out.u64(self.last_id);
        out.u64(self.past.len() as u64);
        for (name, past) in &self.past {
            out.text(name);
            out.option(past.doubt.as_ref(), |out, (since, until)| {
                out.since(*since);
                out.option(until.as_ref(), |out, mark| out.mark(*mark));
            });
            out.flag(past.fresh);
            out.option(past.out.as_ref(), |out, mark| out.mark(*mark));
        }
        out.option(self.purpose.as_ref(), |out, purpose| match purpose {
            Purpose::Failover { to } => {
                out.0.push(1);
                out.option(to.as_ref(), |out, to| out.text(to));
            }
            Purpose::Resync { to, round, drains, last } => {
                out.0.push(2);
                out.text(to);
                out.u64(u64::from(*round));
                out.flag(*drains);
                out.flag(*last);
            }
            Purpose::ByHand(wish) => {
                out.0.push(3);
                out.flag(wish.out_of_order);
                out.flag(wish.asks);
                out.u64(wish.ranges.len() as u64);
                for range in &wish.ranges {
                    out.option(range.endpoint.as_ref(), |out, name| out.text(name));
                    out.since(range.since);
                    out.option(range.until.as_ref(), |out, until| out.u64(*until));
                }
            }
        });
        out.0
    }

    pub(super) fn get(bytes: &[u8]) -> Option<Saved> {
        let mut f = Reader(bytes);
        (f.u8()? == VERSION).then_some(())?;
        let (last_id, count) = (f.u64()?, f.u64()?);
        let mut past = BTreeMap::new();
        for _ in 0..count {
            let name = f.text()?;
            let doubt = f.option(|f| Some((f.since()?, f.option(Reader::mark)?)))?;
            past.insert(name, Past { doubt, fresh: f.flag()?, out: f.option(Reader::mark)? });
        }
        let purpose = f.option(|f| {
            Some(match f.u8()? {
                1 => Purpose::Failover { to: f.option(Reader::text)? },
                2 => Purpose::Resync { to: f.text()?, round: u32::try_from(f.u64()?).ok()?, drains: f.flag()?, last: f.flag()? },
                3 => {
                    let (out_of_order, asks, count) = (f.flag()?, f.flag()?, f.u64()?);
                    let range =
                        |f: &mut Reader<'_>| Some(Range { endpoint: f.option(Reader::text)?, since: f.since()?, until: f.option(Reader::u64)? });
                    Purpose::ByHand(ByHand { out_of_order, asks, ranges: (0..count).map(|_| range(f)).collect::<Option<_>>()? })
                }
                _ => return None,
            })
        })?;
        Some(Saved { last_id, past, purpose })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn flag(&mut self, set: bool) {
        self.0.push(u8::from(set));
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn mark(&mut self, mark: Mark) {
        self.u64(mark.number);
        self.u64(mark.at);
    }

    fn since(&mut self, since: Since) {
        match since {
            Since::Mark(mark) => {
                self.0.push(1);
                self.mark(mark);
            }
            Since::BeforeLastAnswer(window, below) => {
                self.0.push(2);
                self.u64(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
                self.u64(below);
            }
        }
    }

    fn option<T>(&mut self, value: Option<&T>, put: impl FnOnce(&mut Self, &T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, n: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.first_chunk().map(|b| u64::from_le_bytes(*b))
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.u8()? != 0)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        let n = usize::try_from(self.u64()?).ok()?;
        std::str::from_utf8(self.bytes(n)?).ok().map(Arc::from)
    }

    fn mark(&mut self) -> Option<Mark> {
        Some(Mark { number: self.u64()?, at: self.u64()? })
    }

    fn since(&mut self) -> Option<Since> {
        Some(match self.u8()? {
            1 => Since::Mark(self.mark()?),
            2 => Since::BeforeLastAnswer(Duration::from_millis(self.u64()?), self.u64()?),
            _ => return None,
        })
    }

    fn option<T>(&mut self, get: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { get(self).map(Some) } else { Some(None) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_comes_back() {
        let mark = Mark { number: 7, at: 8 };
        let past = BTreeMap::from([
            (Arc::from("a"), Past { doubt: Some((Since::Mark(mark), Some(mark))), fresh: true, out: Some(mark) }),
            (Arc::from("b"), Past { doubt: Some((Since::BeforeLastAnswer(Duration::from_secs(60), 9), None)), fresh: false, out: None }),
        ]);
        let ranges = vec![Range { endpoint: Some(Arc::from("a")), since: Since::Mark(mark), until: Some(9) }];
        let purposes = [
            None,
            Some(Purpose::Failover { to: Some(Arc::from("b")) }),
            Some(Purpose::Resync { to: Arc::from("a"), round: 3, drains: true, last: false }),
            Some(Purpose::ByHand(ByHand { ranges, out_of_order: true, asks: false })),
        ];
        for purpose in purposes {
            let saved = Saved { last_id: 12, past: past.clone(), purpose };
            let bytes = saved.put();
            assert_eq!(Saved::get(&bytes), Some(saved));
            for n in 0..bytes.len() {
                assert_eq!(Saved::get(&bytes[..n]), None, "cut at {n}");
            }
        }
    }
}
