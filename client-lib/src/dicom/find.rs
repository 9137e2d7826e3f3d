//! C-FIND as requestor (PS3.4 C.4.1, study root): what is asked, what is read of the answers, and what an archive is known to have.
//!
//! ```text
//!   is this instance there?
//!     the study is not known --> Ask: study level --> none: nothing of it is there
//!     the series is not known -> Ask: image level, every instance of the series --> a list
//!                                                                            `--> too many: each instance is asked for
//! ```
//! Rules
//! - Study level first, then image level with the UIDs of study and series, as the hierarchy of the model wants it (PS3.4 C.4.1.1.3): archives that
//!   know no relational queries answer it.
//! - An archive is believed that answers with the very UID that is looked for and does not call the instance unavailable; matches without it, or with
//!   others, count for nothing. An instance is known by its SOP instance UID alone, as everywhere in DICOM.
//! - Of a match nothing but that UID and (0008,0056) is read and kept: matches carry patient data.
//! - What is known is believed for `HOLDINGS_KEPT`, and bounded by `HOLDINGS_MAX`: the oldest list is forgotten.
//!
//! Errors: a match that is no data set counts as no match.

use super::dictionary::Tag;
use super::walker::{Sequences, Syntax, Token, Walker, trimmed};
use super::{dimse, uid};
use crate::keys::{Key, Keys};
use crate::limits::{FIND_MATCHES_MAX, HOLDINGS_KEPT, HOLDINGS_MAX, KEY_BYTES_MAX};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

const SOP_INSTANCE: Tag = Tag::new(0x0008, 0x0018);
const LEVEL: Tag = Tag::new(0x0008, 0x0052);
const AVAILABILITY: Tag = Tag::new(0x0008, 0x0056);
const STUDY: Tag = Tag::new(0x0020, 0x000D);
const SERIES: Tag = Tag::new(0x0020, 0x000E);

/// Where an instance stands in the hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Study instance UID.
    pub study: String,
    /// Series instance UID.
    pub series: String,
    /// SOP instance UID.
    pub instance: String,
}

impl Place {
    /// By the key table of a message; `None` if a UID is missing or is none: then nothing can be asked.
    #[must_use]
    pub fn of(keys: &Keys) -> Option<Self> {
        let of = |key| Some(keys.text(key)).filter(|text| uid::is_well_formed(text));
        Some(Self { study: of(Key::Study)?, series: of(Key::Series)?, instance: of(Key::SopInstance)? })
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Is there anything of the study?
    Study {
        /// Study instance UID.
        study: String,
    },
    /// Which instances of the series are there?
    Series {
        /// Study instance UID.
        study: String,
        /// Series instance UID.
        series: String,
    },
    /// Is this instance there?
    Instance(Place),
}

impl Question {
    /// The data set that asks it, in implicit VR little endian.
    #[must_use]
    pub fn identifier(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut put = |tag: Tag, value: &str, padding: u8| {
            out.extend_from_slice(&tag.group().to_le_bytes());
            out.extend_from_slice(&tag.element().to_le_bytes());
            out.extend_from_slice(&(value.len().next_multiple_of(2) as u32).to_le_bytes());
            out.extend_from_slice(value.as_bytes());
            out.extend((value.len() % 2 == 1).then_some(padding));
        };
        let (study, series, instance) = match self {
            Question::Study { study } => (study, None, None),
            Question::Series { study, series } => (study, Some(series), Some("")),
            Question::Instance(place) => (&place.study, Some(&place.series), Some(place.instance.as_str())),
        };
        if let Some(instance) = instance {
            put(SOP_INSTANCE, instance, 0);
        }
        put(LEVEL, if series.is_some() { "IMAGE" } else { "STUDY" }, b' ');
        if series.is_some() {
            put(AVAILABILITY, "", b' ');
        }
        put(STUDY, study, 0);
        if let Some(series) = series {
            put(SERIES, series, 0);
        }
        out
    }

    /// The UID that a match of it names, if the match says what was asked for.
    fn named(&self, identifier: &[u8]) -> Option<String> {
        let read = Read::of(identifier);
        if read.availability == "UNAVAILABLE" {
            return None;
        }
        match self {
            Question::Study { study } => Some(read.study).filter(|named| named == study),
            Question::Series { .. } => Some(read.instance).filter(|named| !named.is_empty()),
            Question::Instance(place) => Some(read.instance).filter(|named| *named == place.instance),
        }
    }
}

/// What is read of a match.
#[derive(Debug, Default)]
struct Read {
    study: String,
    instance: String,
    availability: String,
}

impl Read {
    fn of(mut identifier: &[u8]) -> Read {
        let mut walker = Walker::new(Syntax::ImplicitLittle, Sequences::Skip);
        let (mut read, mut value, mut wanted) = (Read::default(), Vec::new(), None);
        loop {
            let depth = walker.depth();
            match walker.step(&mut identifier) {
                Err(_) | Ok(Token::More) => return read,
                Ok(Token::Element { tag, .. } | Token::Sequence { tag } | Token::Fragments { tag, .. }) if depth == 0 => {
                    wanted = [SOP_INSTANCE, AVAILABILITY, STUDY].contains(&tag).then_some(tag);
                    value.clear();
                }
                Ok(Token::Value(bytes)) if wanted.is_some() => {
                    value.extend_from_slice(&bytes[..bytes.len().min(KEY_BYTES_MAX.saturating_sub(value.len()))]);
                }
                Ok(Token::ValueEnd) => {
                    let text = || String::from_utf8_lossy(trimmed(&value)).into_owned();
                    match wanted.take() {
                        Some(SOP_INSTANCE) => read.instance = text(),
                        Some(AVAILABILITY) => read.availability = text(),
                        Some(STUDY) => read.study = text(),
                        _ => {}
                    }
                }
                Ok(_) => {}
            }
        }
    }
}

/// One C-FIND under way: takes its responses, one by one.
#[derive(Debug)]
pub struct Find {
    question: Question,
    found: HashSet<String>,
    matches: usize,
}

/// What follows a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More is to come.
    More,
    /// The answer is whole.
    Whole,
    /// More matches than are kept: nobody need wait for the rest.
    TooMany,
    /// It ended with this status instead.
    Failed(u16),
}

impl Find {
    /// The question is about to be asked.
    #[must_use]
    pub fn new(question: Question) -> Self {
        Self { question, found: HashSet::new(), matches: 0 }
    }

    /// The data set to send.
    #[must_use]
    pub fn identifier(&self) -> Vec<u8> {
        self.question.identifier()
    }

    /// A response came: its status, and its data set if it had one.
    pub fn respond(&mut self, status: u16, identifier: &[u8]) -> Step {
        if !dimse::is_pending(status) {
            return if status == 0 { Step::Whole } else { Step::Failed(status) };
        }
        self.matches += 1;
        self.found.extend(self.question.named(identifier));
        if self.matches >= FIND_MATCHES_MAX { Step::TooMany } else { Step::More }
    }

    /// Matches that named what was asked for.
    #[must_use]
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// The question and the UIDs that matches named.
    #[must_use]
    pub fn into_parts(self) -> (Question, HashSet<String>) {
        (self.question, self.found)
    }
}

/// What is known of a series.
#[derive(Debug)]
enum Listed {
    /// These are there, and no others.
    All(HashSet<String>),
    /// Too many to be listed.
    TooMany,
}

/// What an archive is known to have.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Studies of which something is there, or nothing.
    studies: HashMap<String, (Instant, bool)>,
    series: HashMap<(String, String), (Instant, Listed)>,
}

impl Holdings {
    /// Whether an instance is there, or what to ask to know it.
    /// # Errors
    /// The question.
    pub fn has(&mut self, place: &Place, now: Instant) -> Result<bool, Question> {
        self.forget_old(now);
        match self.studies.get(&place.study) {
            None => return Err(Question::Study { study: place.study.clone() }),
            Some((_, false)) => return Ok(false),
            Some((_, true)) => {}
        }
        match self.series.get(&(place.study.clone(), place.series.clone())) {
            None => Err(Question::Series { study: place.study.clone(), series: place.series.clone() }),
            Some((_, Listed::All(there))) => Ok(there.contains(&place.instance)),
            Some((_, Listed::TooMany)) => Err(Question::Instance(place.clone())),
        }
    }

    /// A question was answered by these UIDs. `Some`: it was the last one about an instance, and this is the answer.
    pub fn told(&mut self, question: Question, found: HashSet<String>, whole: bool, now: Instant) -> Option<bool> {
        match question {
            Question::Study { study } => {
                self.studies.insert(study, (now, !found.is_empty()));
                None
            }
            Question::Series { study, series } => {
                let listed = if whole { Listed::All(found) } else { Listed::TooMany };
                self.series.insert((study, series), (now, listed));
                while self.kept() > HOLDINGS_MAX && self.series.len() > 1 {
                    let Some(oldest) = self.series.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone()) else { break };
                    self.series.remove(&oldest);
                }
                None
            }
            Question::Instance(_) => Some(!found.is_empty()),
        }
    }

    /// UIDs kept, those of studies and series included.
    fn kept(&self) -> usize {
        let listed = |(_, listed): &(Instant, Listed)| if let Listed::All(there) = listed { there.len() } else { 0 };
        self.studies.len() + self.series.len() + self.series.values().map(listed).sum::<usize>()
    }

    fn forget_old(&mut self, now: Instant) {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < HOLDINGS_KEPT;
        self.studies.retain(|_, (at, _)| fresh(at));
        self.series.retain(|_, (at, _)| fresh(at));
        if self.studies.len() > FIND_MATCHES_MAX {
            self.studies.clear();
        }
    }

    /// What was known is no longer believed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;
    use std::time::Duration;

    fn place(instance: usize) -> Place {
        Place { study: "1.2.3".to_owned(), series: "1.2.3.4".to_owned(), instance: format!("1.2.3.4.{instance}") }
    }

    fn element(tag: Tag, value: &str) -> Vec<u8> {
        let length = (value.len() as u32).to_le_bytes();
        [&tag.group().to_le_bytes()[..], &tag.element().to_le_bytes(), &length, value.as_bytes()].concat()
    }

    fn answer(question: Question, matches: &[Vec<u8>]) -> (Question, HashSet<String>) {
        let mut find = Find::new(question);
        for identifier in matches {
            assert_eq!(find.respond(0xFF00, identifier), Step::More);
        }
        assert_eq!(find.respond(0, &[]), Step::Whole);
        find.into_parts()
    }

    #[test]
    fn questions_stand_in_the_hierarchy_and_are_well_formed() {
        let questions = [
            Question::Study { study: "1.2.3".to_owned() },
            Question::Series { study: "1.2.3".to_owned(), series: "1.2.3.4".to_owned() },
            Question::Instance(place(5)),
        ];
        let uids = [("", "1.2.3"), ("", "1.2.3"), ("1.2.3.4.5", "1.2.3")];
        for (question, (instance, study)) in questions.iter().zip(uids) {
            let bytes = question.identifier();
            assert_eq!(bytes.len() % 2, 0);
            let read = Read::of(&bytes);
            assert_eq!((read.instance.as_str(), read.study.as_str()), (instance, study), "{question:?}");
            let level: &[u8] = if matches!(question, Question::Study { .. }) { b"STUDY " } else { b"IMAGE " };
            assert!(bytes.windows(6).any(|part| part == level), "{question:?}");
        }
    }

    #[test]
    fn an_instance_is_asked_for_by_study_and_series_and_each_is_asked_once() {
        let (mut known, now) = (Holdings::default(), Instant::now());
        let question = known.has(&place(1), now).unwrap_err();
        assert!(matches!(question, Question::Study { .. }));
        let (question, found) = answer(question, &[element(STUDY, "1.2.3")]);
        assert_eq!(known.told(question, found, true, now), None);
        let question = known.has(&place(1), now).unwrap_err();
        assert!(matches!(question, Question::Series { .. }));
        let (question, found) = answer(question, &[element(SOP_INSTANCE, "1.2.3.4.1\0"), element(SOP_INSTANCE, "1.2.3.4.7\0")]);
        assert_eq!(known.told(question, found, true, now), None);
        assert_eq!((known.has(&place(1), now), known.has(&place(2), now), known.has(&place(7), now)), (Ok(true), Ok(false), Ok(true)));
        let later = now + HOLDINGS_KEPT + Duration::from_secs(1);
        assert!(known.has(&place(1), later).is_err(), "believed for a while only");
        known.forget();
        assert!(known.has(&place(1), now).is_err());
    }

    #[test]
    fn nothing_of_a_study_that_is_not_there_is_asked_for() {
        let (mut known, now) = (Holdings::default(), Instant::now());
        let (question, found) = answer(known.has(&place(1), now).unwrap_err(), &[]);
        known.told(question, found, true, now);
        assert_eq!(known.has(&place(1), now), Ok(false));
    }

    #[test]
    fn matches_that_name_something_else_or_what_cannot_be_had_count_for_nothing() {
        let study = || Question::Study { study: "1.2.3".to_owned() };
        for wrong in [element(STUDY, "1.2.33"), Vec::new(), b"rubbish!".to_vec(), element(Tag::new(0x0010, 0x0010), "A^B ")] {
            assert!(answer(study(), &[wrong]).1.is_empty());
        }
        let unavailable = [element(SOP_INSTANCE, "1.2.3.4.1\0"), element(AVAILABILITY, "UNAVAILABLE ")].concat();
        let series = || Question::Series { study: "1.2.3".to_owned(), series: "1.2.3.4".to_owned() };
        assert!(answer(series(), &[unavailable]).1.is_empty());
        let online = [element(SOP_INSTANCE, "1.2.3.4.1\0"), element(AVAILABILITY, "ONLINE")].concat();
        assert_eq!(answer(series(), &[online]).1.len(), 1);
        assert!(answer(Question::Instance(place(2)), &[element(SOP_INSTANCE, "1.2.3.4.1\0")]).1.is_empty());
    }

    #[test]
    fn a_list_that_is_too_long_is_given_up_and_each_instance_asked_for() {
        let (mut known, now) = (Holdings::default(), Instant::now());
        known.told(Question::Study { study: "1.2.3".to_owned() }, HashSet::from(["1.2.3".to_owned()]), true, now);
        let mut find = Find::new(known.has(&place(1), now).unwrap_err());
        let mut count = 0;
        let step = loop {
            count += 1;
            match find.respond(0xFF01, &element(SOP_INSTANCE, "1.2.3.4.1\0")) {
                Step::More => {}
                other => break other,
            }
        };
        assert_eq!((step, count), (Step::TooMany, FIND_MATCHES_MAX));
        let (question, found) = find.into_parts();
        known.told(question, found, false, now);
        let question = known.has(&place(9), now).unwrap_err();
        assert_eq!(question, Question::Instance(place(9)));
        let (question, found) = answer(question, &[element(SOP_INSTANCE, "1.2.3.4.9\0")]);
        assert_eq!(known.told(question, found, true, now), Some(true));
    }

    #[test]
    fn a_failure_is_no_answer() {
        let mut find = Find::new(Question::Study { study: "1.2.3".to_owned() });
        assert_eq!(find.respond(0xA700, &[]), Step::Failed(0xA700));
        assert_eq!(find.respond(0xFE00, &[]), Step::Failed(0xFE00));
    }

    #[test]
    fn lists_are_bounded_together() {
        let (mut known, now) = (Holdings::default(), Instant::now());
        for n in 0..5 {
            let there: HashSet<String> = (0..FIND_MATCHES_MAX - 1).map(|i| format!("1.{n}.{i}")).collect();
            let at = now + Duration::from_secs(n);
            known.told(Question::Series { study: "1.2.3".to_owned(), series: format!("1.{n}") }, there, true, at);
            assert!(known.kept() <= HOLDINGS_MAX);
        }
        assert!(known.series.contains_key(&("1.2.3".to_owned(), "1.4".to_owned())), "the newest is kept");
    }

    #[test]
    fn what_lacks_a_uid_cannot_be_asked_for() {
        let mut keys = Keys::new();
        keys.set(Key::Study, b"1.2.3");
        keys.set(Key::SopInstance, b"1.2.3.4.1");
        assert_eq!(Place::of(&keys), None);
        keys.set(Key::Series, b"not a uid");
        assert_eq!(Place::of(&keys), None);
        keys.set(Key::Series, b"1.2.3.4");
        assert_eq!(Place::of(&keys), Some(place(1)));
    }
}
