//! `everpost endpoint` and `everpost site`: an operator's wishes.
//! Rules: what was wished is durable when the command returns; a dry run changes nothing and fails where the wish would.
//! Errors: `Failure`: 1 refused, 5 not reachable; `endpoint probe`: 4 negative answer, 5 no answer.

use super::connect::Place;
use super::{EXIT_DONE, EXIT_NEGATIVE, EXIT_UNREACHABLE, Failure, Reach, answer, answer_json};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// `everpost endpoint`.
#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// Move a destination to an endpoint, for a time; it fails over from there as ever
    Shift {
        /// Destination
        destination: String,
        /// Endpoint
        endpoint: String,
        /// How
        #[command(flatten)]
        wish: Wish,
        /// Which gateway
        #[command(flatten)]
        reach: Reach,
    },
    /// End the shift of a destination
    Unshift {
        /// Destination
        destination: String,
        /// Which gateway
        #[command(flatten)]
        reach: Reach,
    },
    /// No new traffic to an endpoint; what is in flight ends
    Drain(Named),
    /// Use an endpoint again
    Enable(Chosen),
    /// Neither traffic nor probes to an endpoint
    Disable(Named),
    /// Probe an endpoint now
    Probe(Chosen),
}

/// `everpost site`.
#[derive(Debug, Subcommand)]
pub enum Site {
    /// Move every destination away from a site, for a time, all or nothing
    Shift {
        /// Site
        site: String,
        /// To this site; without it, wherever each destination has a good endpoint
        #[arg(long, value_name = "SITE")]
        to: Option<String>,
        /// How
        #[command(flatten)]
        wish: Wish,
        /// Which gateway
        #[command(flatten)]
        reach: Reach,
    },
    /// End what `site shift` began
    Unshift {
        /// Site
        site: String,
        /// Which gateway
        #[command(flatten)]
        reach: Reach,
    },
}

/// How a shift is wished.
#[derive(Debug, Args)]
pub struct Wish {
    /// Why; recorded and shown
    #[arg(long, value_name = "T")]
    reason: String,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "60m")]
    time: String,
    /// Even if the endpoint is not healthy: one envelope goes there at once, and the rest follow if it is answered
    #[arg(long)]
    force: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which endpoint.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Destination
    destination: String,
    /// Endpoint
    endpoint: String,
    #[command(flatten)]
    reach: Reach,
}

/// Which endpoint, even if it is the last.
#[derive(Debug, Args)]
pub struct Named {
    /// Even if it is the last enabled one, so that everything waits
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    chosen: Chosen,
}

impl Wish {
    fn body(&self, to: Option<&str>) -> Value {
        let mut body = json!({"reason": self.reason, "for": self.time, "force": self.force, "dry_run": self.dry_run, "by": person()});
        if let Some(to) = to {
            body["to"] = to.into();
        }
        body
    }
}

impl Endpoint {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        match self {
            Endpoint::Shift { destination, endpoint, wish, reach } => {
                let path = format!("/api/v1/destinations/{destination}/endpoints/{endpoint}/shift");
                let value = reach.place()?.json(Method::POST, &path, Some(&wish.body(None))).await?;
                say(json, &value, || shifted(&value))
            }
            Endpoint::Unshift { destination, reach } => {
                let value = post(&reach.place()?, &format!("/api/v1/destinations/{destination}/unshift"), false).await?;
                say(json, &value, || format!("{destination}: the shift to {} has ended", text(&value["ended"]["to"])))
            }
            Endpoint::Drain(named) => admin(&named.chosen, "drain", named.force, json).await,
            Endpoint::Enable(chosen) => admin(&chosen, "enable", false, json).await,
            Endpoint::Disable(named) => admin(&named.chosen, "disable", named.force, json).await,
            Endpoint::Probe(chosen) => probe(&chosen, json).await,
        }
    }
}

impl Site {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        match self {
            Site::Shift { site, to, wish, reach } => {
                let value = reach.place()?.json(Method::POST, &format!("/api/v1/sites/{site}/shift"), Some(&wish.body(to.as_deref()))).await?;
                let rows = || value["destinations"].as_array().into_iter().flatten().map(shifted).collect::<Vec<_>>().join("\n");
                say(json, &value, rows)
            }
            Site::Unshift { site, reach } => {
                let value = post(&reach.place()?, &format!("/api/v1/sites/{site}/unshift"), false).await?;
                let names = || value["destinations"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
                say(json, &value, || format!("site {site}: the shifts of {} have ended", names()))
            }
        }
    }
}

async fn post(place: &Place, path: &str, force: bool) -> Result<Value, Failure> {
    place.json(Method::POST, path, Some(&json!({"force": force, "by": person()}))).await
}

async fn admin(chosen: &Chosen, verb: &str, force: bool, json: bool) -> Result<u8, Failure> {
    let Chosen { destination, endpoint, reach } = chosen;
    let value = post(&reach.place()?, &format!("/api/v1/destinations/{destination}/endpoints/{endpoint}/{verb}"), force).await?;
    let more = if verb == "drain" { "; `everpost status` shows when nothing is in flight there any more" } else { "" };
    say(json, &value, || format!("{destination}/{endpoint}: {}{more}", text(&value["admin"])))
}

async fn probe(chosen: &Chosen, json: bool) -> Result<u8, Failure> {
    let Chosen { destination, endpoint, reach } = chosen;
    let value = post(&reach.place()?, &format!("/api/v1/destinations/{destination}/endpoints/{endpoint}/probe"), false).await?;
    let probes: Vec<&Value> = value["probes"].as_array().into_iter().flatten().collect();
    let mut out = String::new();
    for p in &probes {
        let took = format!("{:.0} ms", p["seconds"].as_f64().unwrap_or_default() * 1_000.0);
        let _ = match p["good"].as_bool() {
            Some(true) => writeln!(out, "{destination}/{}: good, {took}", text(&p["endpoint"])),
            _ => writeln!(out, "{destination}/{}: failed in phase {} after {took}: {}", text(&p["endpoint"]), text(&p["phase"]), text(&p["cause"])),
        };
    }
    say(json, &value, || out.clone())?;
    let bad = |p: &&&Value| p["good"] != true;
    // An association that was rejected is an answer, and no good one.
    Ok(match (probes.iter().find(bad), probes.iter().any(|p| p["phase"] == "associate")) {
        (None, _) => EXIT_DONE,
        (Some(_), true) => EXIT_NEGATIVE,
        (Some(_), false) => EXIT_UNREACHABLE,
    })
}

fn shifted(value: &Value) -> String {
    let shift = &value["shift"];
    let from = value["from"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let from = if from.is_empty() { "nowhere".to_owned() } else { from };
    let would = if value["dry_run"] == true { "would be shifted" } else { "shifted" };
    format!("{}: {would} from {from} to {} until {}", text(&value["destination"]), text(&shift["to"]), text(&shift["until"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn say(json: bool, value: &Value, words: impl Fn() -> String) -> Result<u8, Failure> {
    if json {
        answer_json(value)?
    } else {
        answer(&words())?
    }
    Ok(EXIT_DONE)
}

/// Who gives the command, as far as the environment says.
pub(super) fn person() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
}
