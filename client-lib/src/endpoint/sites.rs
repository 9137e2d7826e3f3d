//! Couples destinations by site: when a site's triggers have left it, its followers leave it too, one after the other, and come back when they are back.
//!
//! ```text
//!           all (or any) triggers deliver elsewhere
//!   Home ------------------------------------------------> Left(to): one order to each follower, in turn
//!    ^                                                        |
//!    +------ every trigger could deliver here again ----------+      (a trigger with nowhere to deliver says nothing)
//! ```
//! Rules
//! - A trigger counts by where it would deliver if it followed nobody: so a trigger may be a follower too, and all come back together when the last
//!   of them can. Its own rules (hold-down, window, manual failback, shifts) decide when that is; nothing here is faster than they are.
//! - An order is a wish: it changes what a follower likes. Where it has nothing eligible at the other site it stays, and that is told once.
//! - Of several left sites that name the same follower, the first in the file has it.
//! - Nothing is remembered across a restart: then every destination begins at its first endpoint, and what its triggers do is seen again.
//!
//! Errors: none. Pure: what is seen goes in, orders and what is to be told come out, one order at a time.

use super::wishes::Follow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `[[site]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Unique.
    pub name: Arc<str>,
    /// Destinations whose move away moves the followers.
    pub triggers: Vec<Arc<str>>,
    /// Destinations that move with them, in order.
    pub followers: Vec<Arc<str>>,
    /// One trigger that left is enough; else all must have.
    pub leave_when_any: bool,
}

/// What is seen of one destination. Sites of endpoints; `None` inside: an endpoint without a site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Of the active endpoints; empty: none is.
    pub active: Vec<Option<Arc<str>>>,
    /// Of those that would be active if it followed nobody.
    pub unfollowed: Vec<Option<Arc<str>>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// By which destination.
    pub destination: Arc<str>,
    /// What it follows from now on; `None`: nobody.
    pub follow: Option<Follow>,
}

/// The coupling of all sites.
#[derive(Debug, Default)]
pub struct Sites {
    sites: Vec<Coupled>,
    /// Orders that were given and stand.
    given: BTreeMap<Arc<str>, Follow>,
    told: Vec<(Arc<str>, String)>,
}

#[derive(Debug)]
struct Coupled {
    site: Site,
    /// Set: left, to there, for this reason.
    left: Option<Follow>,
    /// Followers of which it was told that they stay.
    stay: Vec<Arc<str>>,
}

/// Where a trigger is, as seen from a site.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Here,
    Elsewhere(Option<Arc<str>>),
    Nowhere,
}

impl Sites {
    /// Takes new settings. Orders that stand go on until what is seen says otherwise.
    pub fn reconfigure(&mut self, sites: &[Site]) {
        let old = std::mem::take(&mut self.sites);
        let left_before = |site: &Site| old.iter().find(|c| c.site == *site).and_then(|c| c.left.clone());
        let coupled = sites.iter().filter(|site| !site.triggers.is_empty() && !site.followers.is_empty());
        self.sites = coupled.map(|site| Coupled { left: left_before(site), site: site.clone(), stay: Vec::new() }).collect();
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sites.is_empty() && self.given.is_empty()
    }

    /// The next order, if any: carry it out, look again, and ask again, until there is none.
    pub fn next_order(&mut self, seen: &BTreeMap<Arc<str>, Whereabouts>) -> Option<Order> {
        for coupled in &mut self.sites {
            coupled.look(seen, &mut self.told);
        }
        // What was told to a destination that is gone is not known to one of its name that comes later.
        self.given.retain(|destination, _| seen.contains_key(destination));
        let followers: Vec<Arc<str>> = self.sites.iter().flat_map(|c| c.site.followers.iter().cloned()).collect();
        for destination in followers.iter().chain(self.given.keys()).filter(|destination| seen.contains_key(*destination)) {
            let left = |c: &&Coupled| c.left.is_some() && c.site.followers.contains(destination);
            let follow = self.sites.iter().find(left).and_then(|c| c.left.clone());
            if self.given.get(destination) != follow.as_ref() {
                let order = Order { destination: Arc::clone(destination), follow };
                match &order.follow {
                    Some(follow) => drop(self.given.insert(Arc::clone(&order.destination), follow.clone())),
                    None => drop(self.given.remove(&order.destination)),
                }
                return Some(order);
            }
        }
        for coupled in &mut self.sites {
            coupled.mind_stragglers(seen, &mut self.told);
        }
        None
    }

    /// What happened, for people: site and text, oldest first.
    pub fn told(&mut self) -> Vec<(Arc<str>, String)> {
        std::mem::take(&mut self.told)
    }
}

impl Coupled {
    fn look(&mut self, seen: &BTreeMap<Arc<str>, Whereabouts>, told: &mut Vec<(Arc<str>, String)>) {
        let triggers: Vec<(&Arc<str>, Seen)> = self.site.triggers.iter().map(|name| (name, self.site.sees(seen.get(name)))).collect();
        let here = triggers.iter().filter(|(_, at)| *at == Seen::Here).count();
        let gone: Vec<(&Arc<str>, &Option<Arc<str>>)> =
            triggers.iter().filter_map(|(name, at)| if let Seen::Elsewhere(to) = at { Some((*name, to)) } else { None }).collect();
        let leaves = !gone.is_empty() && (here == 0 || self.site.leave_when_any);
        match (&self.left, leaves) {
            (None, true) => {
                let names: Vec<&str> = gone.iter().map(|(name, _)| &***name).collect();
                let to = gone[0].1.clone();
                let place = to.as_ref().map_or_else(|| "elsewhere".to_owned(), |to| format!("at site {to}"));
                let why: Arc<str> = format!("{} left site {} and delivers {place}", names.join(", "), self.site.name).into();
                let moves = |name: &&Arc<str>| seen.get(*name).is_some_and(|w| self.site.is_at(&w.active));
                let movers: Vec<&str> = self.site.followers.iter().filter(moves).map(|name| &**name).collect();
                if !movers.is_empty() {
                    told.push((Arc::clone(&self.site.name), format!("{why}; following: {}", movers.join(", "))));
                }
                self.left = Some(Follow { leaves: Arc::clone(&self.site.name), to, why });
            }
            // It moved on: the followers move with it.
            (Some(follow), true) if !gone.iter().any(|(_, to)| **to == follow.to) => {
                let to = gone[0].1.clone();
                self.left = Some(Follow { to, ..follow.clone() });
            }
            (Some(_), false) if gone.is_empty() && here > 0 => {
                told.push((Arc::clone(&self.site.name), format!("{} can deliver here again; followers come back", self.site.triggers.join(", "))));
                self.left = None;
                self.stay.clear();
            }
            _ => {}
        }
    }

    /// Tells once of each follower that could not go, and again when it could.
    fn mind_stragglers(&mut self, seen: &BTreeMap<Arc<str>, Whereabouts>, told: &mut Vec<(Arc<str>, String)>) {
        if self.left.is_none() {
            return;
        }
        for name in &self.site.followers {
            let stays = seen.get(name).is_some_and(|w| self.site.is_at(&w.active));
            let known = self.stay.iter().position(|n| n == name);
            match (stays, known) {
                (true, None) => {
                    self.stay.push(Arc::clone(name));
                    told.push((
                        Arc::clone(&self.site.name),
                        format!("{name} stays: it has no eligible endpoint at the other site, or a shift keeps it"),
                    ));
                }
                (false, Some(at)) => {
                    self.stay.remove(at);
                    told.push((Arc::clone(&self.site.name), format!("{name} has followed now")));
                }
                _ => {}
            }
        }
    }
}

impl Site {
    fn is_at(&self, sites: &[Option<Arc<str>>]) -> bool {
        sites.iter().any(|site| site.as_ref() == Some(&self.name))
    }

    fn sees(&self, whereabouts: Option<&Whereabouts>) -> Seen {
        match whereabouts.map(|w| (self.is_at(&w.unfollowed), w.unfollowed.first())) {
            Some((true, _)) => Seen::Here,
            Some((false, Some(site))) => Seen::Elsewhere(site.clone()),
            Some((false, None)) | None => Seen::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str, triggers: &[&str], followers: &[&str], leave_when_any: bool) -> Site {
        let names = |names: &[&str]| names.iter().map(|n| (*n).into()).collect();
        Site { name: name.into(), triggers: names(triggers), followers: names(followers), leave_when_any }
    }

    /// Destinations with one endpoint at each of two sites, of which some are away.
    struct Bench {
        sites: Sites,
        /// By destination: sites at which it is good, the one it likes first.
        good: BTreeMap<Arc<str>, Vec<&'static str>>,
        follows: BTreeMap<Arc<str>, Follow>,
        orders: Vec<String>,
    }

    impl Bench {
        fn new(sites: &[Site], names: &[&str]) -> Self {
            let mut coupling = Sites::default();
            coupling.reconfigure(sites);
            let good = names.iter().map(|n| ((*n).into(), vec!["north", "south"])).collect();
            Self { sites: coupling, good, follows: BTreeMap::new(), orders: Vec::new() }
        }

        fn seen(&self) -> BTreeMap<Arc<str>, Whereabouts> {
            let see = |(name, good): (&Arc<str>, &Vec<&'static str>)| {
                let one = |site: Option<&&str>| site.map(|s| Some((*s).into())).into_iter().collect::<Vec<_>>();
                let unfollowed = one(good.first());
                let followed = self.follows.get(name).and_then(|f| good.iter().find(|s| f.to.as_deref() == Some(**s)));
                let active = if followed.is_some() { one(followed) } else { unfollowed.clone() };
                (Arc::clone(name), Whereabouts { active, unfollowed })
            };
            self.good.iter().map(see).collect()
        }

        /// Some destination is good at these sites only, from now on. Gives where all of them are then.
        fn with(&mut self, name: &str, good: &[&'static str]) -> String {
            self.good.insert(name.into(), good.to_vec());
            for _ in 0..20 {
                let seen = self.seen();
                let Some(order) = self.sites.next_order(&seen) else {
                    let at = |w: &Whereabouts| w.active.first().cloned().flatten().map_or("-".to_owned(), |s| s.to_string());
                    return seen.iter().map(|(name, w)| format!("{name}:{}", at(w))).collect::<Vec<_>>().join(" ");
                };
                self.orders.push(order.destination.to_string());
                match order.follow {
                    Some(follow) => drop(self.follows.insert(order.destination, follow)),
                    None => drop(self.follows.remove(&order.destination)),
                }
            }
            panic!("orders without end: {:?}", self.orders);
        }
    }

    #[test]
    fn followers_go_in_order_and_come_back() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris", "archive"], false), site("south", &[], &[], false)], &["pacs", "ris", "archive"]);
        assert_eq!(b.with("pacs", &["south"]), "archive:south pacs:south ris:south");
        assert_eq!(b.orders, ["ris", "archive"]);
        let told = b.sites.told();
        assert!(told.len() == 1 && told[0].1.contains("pacs left site north") && told[0].1.contains("ris, archive"), "{told:?}");
        assert_eq!(b.with("pacs", &["north", "south"]), "archive:north pacs:north ris:north");
        assert_eq!(b.orders, ["ris", "archive", "ris", "archive"]);
    }

    #[test]
    fn all_triggers_must_have_left_or_one_is_enough() {
        for (any, after_one) in [(false, "a:south b:north f:north"), (true, "a:south b:north f:south")] {
            let mut b = Bench::new(&[site("north", &["a", "b"], &["f"], any)], &["a", "b", "f"]);
            assert_eq!(b.with("a", &["south"]), after_one);
            assert_eq!(b.with("b", &["south"]), "a:south b:south f:south");
            assert_eq!(b.with("a", &["north", "south"]), "a:north b:south f:south", "back when all are");
            assert_eq!(b.with("b", &["north", "south"]), "a:north b:north f:north");
        }
    }

    #[test]
    fn triggers_that_follow_move_and_return_as_one() {
        let both = ["pacs", "ris"];
        let mut b = Bench::new(&[site("north", &both, &both, true)], &both);
        assert_eq!(b.with("ris", &["south", "north"]), "pacs:south ris:south", "ris would rather be in the south now: it left");
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:south");
        assert_eq!(b.with("ris", &["north", "south"]), "pacs:south ris:south", "pacs cannot return yet");
        assert_eq!(b.with("pacs", &["north", "south"]), "pacs:north ris:north");
    }

    #[test]
    fn who_cannot_follow_stays_and_it_is_told_once() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris"], false)], &["pacs", "ris"]);
        b.with("ris", &["north"]);
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:north");
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:north");
        let stays = |told: &[(Arc<str>, String)]| told.iter().filter(|(_, what)| what.contains("ris stays")).count();
        assert_eq!(stays(&b.sites.told()), 1);
        assert_eq!(b.with("ris", &["north", "south"]), "pacs:south ris:south");
        assert!(b.sites.told().iter().any(|(_, what)| what.contains("has followed")));
    }

    #[test]
    fn a_trigger_with_nowhere_to_deliver_says_nothing() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris"], false)], &["pacs", "ris"]);
        assert_eq!(b.with("pacs", &[]), "pacs:- ris:north");
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:south");
        assert_eq!(b.with("pacs", &[]), "pacs:- ris:south");
        assert!(b.orders.len() == 1, "{:?}", b.orders);
    }

    #[test]
    fn a_destination_that_comes_back_into_the_configuration_is_told_again() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris"], false)], &["pacs", "ris"]);
        b.with("pacs", &["south"]);
        b.good.remove("ris");
        b.follows.clear();
        assert_eq!(b.with("pacs", &["south"]), "pacs:south");
        assert_eq!(b.with("ris", &["north", "south"]), "pacs:south ris:south");
    }

    #[test]
    fn it_goes_on_to_a_third_site() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris"], false)], &["pacs", "ris"]);
        b.with("ris", &["north", "south", "west"]);
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:south");
        assert_eq!(b.with("pacs", &["west"]), "pacs:west ris:west");
    }

    #[test]
    fn a_site_that_is_configured_no_longer_lets_go() {
        let mut b = Bench::new(&[site("north", &["pacs"], &["ris"], false)], &["pacs", "ris"]);
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:south");
        b.sites.reconfigure(&[]);
        assert_eq!(b.with("pacs", &["south"]), "pacs:south ris:north");
        assert!(b.sites.is_idle());
    }
}
