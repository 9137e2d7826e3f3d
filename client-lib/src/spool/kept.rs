//! The first and the last of many records of one envelope: a retry for weeks must not grow the memory, the journal or a story without bound.
//! Rules: ordered by number; of a record copied forward the last place told holds; beyond the limits the oldest of the later ones goes.
//! Errors: none.

use crate::limits::{ATTEMPTS_FIRST_KEPT, ATTEMPTS_LAST_KEPT};
use crate::spool::record::Position;

/// Numbers and places of records.
#[derive(Debug, Default)]
pub(crate) struct Kept(Vec<(u64, Position)>);

impl Kept {
    /// A record with this number stands here.
    pub(crate) fn add(&mut self, lsn: u64, at: Position) {
        match self.0.binary_search_by_key(&lsn, |(known, _)| *known) {
            Ok(found) => self.0[found].1 = at,
            Err(place) => {
                // Most have one or two: no room in advance.
                self.0.reserve_exact(1);
                self.0.insert(place, (lsn, at));
                if self.0.len() > ATTEMPTS_FIRST_KEPT + ATTEMPTS_LAST_KEPT {
                    self.0.remove(ATTEMPTS_FIRST_KEPT);
                }
            }
        }
    }

    /// Whether the record at this place is one of them.
    pub(crate) fn holds(&self, at: Position) -> bool {
        self.0.iter().any(|(_, kept)| *kept == at)
    }

    /// Numbers and places, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, Position)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(1, offset * 8)
    }

    fn numbers(kept: &Kept) -> Vec<u64> {
        kept.iter().map(|(lsn, _)| lsn).collect()
    }

    const BOTH: u64 = (ATTEMPTS_FIRST_KEPT + ATTEMPTS_LAST_KEPT) as u64;

    #[test]
    fn the_first_and_the_last_stay_whatever_the_order_they_are_told_in() {
        let expected: Vec<u64> = (1..=ATTEMPTS_FIRST_KEPT as u64).chain(1_001 - ATTEMPTS_LAST_KEPT as u64..=1_000).collect();
        let (mut upwards, mut downwards, mut mixed) = (Kept::default(), Kept::default(), Kept::default());
        for lsn in 1..=1_000 {
            upwards.add(lsn, at(lsn));
            downwards.add(1_001 - lsn, at(1_001 - lsn));
            // 7 and 1,009 have no common divisor: every number once, in no order.
            let lsn = lsn * 7 % 1_009;
            if lsn <= 1_000 {
                mixed.add(lsn, at(lsn));
            }
        }
        (1..=1_000).filter(|lsn| *lsn > 1_000 * 7 % 1_009).for_each(|lsn| mixed.add(lsn, at(lsn)));
        for kept in [&upwards, &downwards, &mixed] {
            assert_eq!(numbers(kept), expected);
            assert!(kept.0.capacity() as u64 <= 2 * BOTH, "memory does not grow with the attempts: {}", kept.0.capacity());
        }
    }

    #[test]
    fn a_record_copied_forward_is_found_where_it_stands_now() {
        let mut kept = Kept::default();
        (1..=3).for_each(|lsn| kept.add(lsn, at(lsn)));
        kept.add(2, at(200));
        assert_eq!(numbers(&kept), [1, 2, 3]);
        assert!(kept.holds(at(200)) && !kept.holds(at(2)));
    }
}
