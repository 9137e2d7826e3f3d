//! Alarms of one destination: each begins once and ends once, however often its cause is seen.
//! Rules: the text that ends an alarm is the text that began it. Errors: none.

use super::verdict::Concern;
use crate::event::Event;
use crate::ids::EndpointId;
use std::collections::BTreeMap;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// No endpoint is eligible.
    Outage,
    /// An envelope has been refused for longer than `reject_alarm`.
    Refused,
    /// As many envelopes wait for a time of their own as may.
    Crowded,
    /// A row of the verdict table asks people to look.
    Concern(Concern, EndpointId),
    /// An endpoint answers slowly.
    Slow(EndpointId),
    /// An endpoint that is not active would refuse what goes to the destination.
    Standby(EndpointId),
    /// The delivery loop had to be started again.
    Stuck,
}

/// Those that stand.
#[derive(Debug, Clone, Default)]
pub struct Alarms {
    standing: BTreeMap<Alarm, (String, String)>,
}

impl Alarms {
    /// An event if it did not stand before.
    pub fn raise(&mut self, alarm: Alarm, subject: String, what: String) -> Option<Event> {
        if self.standing.contains_key(&alarm) {
            return None;
        }
        self.standing.insert(alarm, (subject.clone(), what.clone()));
        Some(Event::Alarm { subject, what, raised: true })
    }

    /// An event if it stood.
    pub fn clear(&mut self, alarm: Alarm) -> Option<Event> {
        let (subject, what) = self.standing.remove(&alarm)?;
        Some(Event::Alarm { subject, what, raised: false })
    }

    /// An alarm whose text may change: begins, ends, or ends and begins anew with other words. `None`: it is over.
    pub fn restate(&mut self, alarm: Alarm, subject: String, what: Option<String>) -> Vec<Event> {
        if self.standing.get(&alarm).map(|(_, told)| told) == what.as_ref() {
            return Vec::new();
        }
        let over = self.clear(alarm);
        let begun = what.and_then(|what| self.raise(alarm, subject, what));
        over.into_iter().chain(begun).collect()
    }

    /// Ends all of which `which` says so.
    pub fn clear_if(&mut self, which: impl Fn(&Alarm) -> bool) -> Vec<Event> {
        let ended: Vec<Alarm> = self.standing.keys().filter(|a| which(a)).copied().collect();
        ended.into_iter().filter_map(|a| self.clear(a)).collect()
    }

    /// Whether it stands.
    #[must_use]
    pub fn stands(&self, alarm: Alarm) -> bool {
        self.standing.contains_key(&alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_begins_once_and_ends_once_with_the_same_words() {
        let mut alarms = Alarms::default();
        let begin = alarms.raise(Alarm::Outage, "s".into(), "first".into());
        assert!(matches!(begin, Some(Event::Alarm { raised: true, .. })));
        assert!(alarms.raise(Alarm::Outage, "s".into(), "second".into()).is_none());
        let Some(Event::Alarm { what, raised: false, .. }) = alarms.clear(Alarm::Outage) else { panic!("no end") };
        assert_eq!(what, "first");
        assert!(alarms.clear(Alarm::Outage).is_none());
    }

    #[test]
    fn an_alarm_whose_words_change_ends_and_begins() {
        let mut alarms = Alarms::default();
        let mut state = |what: Option<&str>| -> Vec<(String, bool)> {
            let events = alarms.restate(Alarm::Standby(EndpointId(1)), "s".into(), what.map(str::to_owned));
            let told = |event| match event {
                Event::Alarm { what, raised, .. } => (what, raised),
                other => panic!("{other:?}"),
            };
            events.into_iter().map(told).collect()
        };
        assert_eq!(state(None), []);
        assert_eq!(state(Some("MG")), [("MG".to_owned(), true)]);
        assert_eq!(state(Some("MG")), []);
        assert_eq!(state(Some("CT")), [("MG".to_owned(), false), ("CT".to_owned(), true)]);
        assert_eq!(state(None), [("CT".to_owned(), false)]);
    }
}
