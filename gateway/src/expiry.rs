//! Certificates that run out: an alarm 30 days before, another 7 days before, a third when it has happened. Each begins once and ends with the renewal.
//! Rules: pure; what is looked at comes as name and time left. Errors: none.

use everpost_client::event::Event;
use std::collections::BTreeSet;
use std::time::Duration;

/// Days left at which an alarm begins: time to order a certificate, time to hurry, too late.
const DAYS: [u64; 3] = [30, 7, 0];

/// The alarms that stand: use of the certificate, days.
#[derive(Debug, Default)]
pub struct Expiries(BTreeSet<(String, u64)>);

impl Expiries {
    /// Looks at every certificate in use; returns the alarms that begin and end.
    pub fn look(&mut self, certificates: &[(String, Duration)]) -> Vec<Event> {
        let mut stand = BTreeSet::new();
        for (use_, left) in certificates {
            let near = DAYS.into_iter().filter(|days| *left <= Duration::from_secs(days * 86_400));
            stand.extend(near.map(|days| (use_.clone(), days)));
        }
        let ended = self.0.difference(&stand).map(|sign| alarm(sign, false));
        let begun = stand.difference(&self.0).map(|sign| alarm(sign, true));
        let events = ended.chain(begun).collect();
        self.0 = stand;
        events
    }
}

fn alarm((use_, days): &(String, u64), raised: bool) -> Event {
    let what = match days {
        0 => "the certificate has expired, peers refuse it; replace the files and reload (SIGHUP)".to_owned(),
        days => format!("the certificate expires in less than {days} days; replace the files and reload (SIGHUP)"),
    };
    Event::Alarm { subject: use_.clone(), what, raised }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(expiries: &mut Expiries, days: u64) -> Vec<(String, bool)> {
        let events = expiries.look(&[("listener in".to_owned(), Duration::from_secs(days * 86_400))]);
        let told = events.into_iter().map(|event| match event {
            Event::Alarm { what, raised, .. } => (what.chars().take(47).collect(), raised),
            other => (format!("{other:?}"), false),
        });
        told.collect()
    }

    #[test]
    fn each_alarm_begins_once_and_ends_with_the_renewal() {
        let mut expiries = Expiries::default();
        assert_eq!(told(&mut expiries, 31), []);
        assert_eq!(told(&mut expiries, 30).len(), 1);
        assert_eq!(told(&mut expiries, 29), []);
        assert_eq!(told(&mut expiries, 6), [("the certificate expires in less than 7 days; re".to_owned(), true)]);
        assert_eq!(told(&mut expiries, 0), [("the certificate has expired, peers refuse it; r".to_owned(), true)]);
        let renewed = told(&mut expiries, 365);
        assert_eq!(renewed.len(), 3);
        assert!(renewed.iter().all(|(_, raised)| !raised));
    }

    #[test]
    fn a_certificate_that_is_used_no_longer_alarms_nobody() {
        let mut expiries = Expiries::default();
        assert_eq!(told(&mut expiries, 3).len(), 2);
        assert_eq!(expiries.look(&[]).len(), 2);
        assert_eq!(expiries.look(&[]).len(), 0);
    }
}
