//! `everpost completions` and `everpost man`: shell completions and manual pages, made from the definition of the commands, so that they cannot differ from it.
//! Rules: hidden from the list of commands: packages call them while they are built.
//! Errors: `Failure`, for files that cannot be written.

use super::{Cli, EXIT_DONE, EXIT_REFUSED, Failure, answer};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// bash, zsh, fish, elvish, powershell
    shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Directory for a page per command; without it, the first page goes to standard output
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Completions {
    /// Runs it.
    /// # Errors
    /// Standard output.
    pub fn execute(self) -> Result<u8, Failure> {
        let mut out = Vec::new();
        clap_complete::generate(self.shell, &mut shown(), "everpost", &mut out);
        answer(&String::from_utf8_lossy(&out))?;
        Ok(EXIT_DONE)
    }
}

impl Man {
    /// Runs it.
    /// # Errors
    /// A file, or standard output.
    pub fn execute(self) -> Result<u8, Failure> {
        let pages = pages().map_err(|e| Failure::new(EXIT_REFUSED, format!("man pages: {e}")))?;
        match &self.to {
            None => answer(pages.first().map_or("", |(_, text)| text))?,
            Some(dir) => write(dir, &pages).map_err(|e| Failure::new(EXIT_REFUSED, format!("{}: {e}", dir.display())))?,
        }
        Ok(EXIT_DONE)
    }
}

fn write(dir: &Path, pages: &[(String, String)]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    pages.iter().try_for_each(|(name, text)| std::fs::write(dir.join(name), text))
}

/// The commands as they are, without those that only packages call.
fn shown() -> clap::Command {
    let whole = Cli::command();
    let names: Vec<String> = whole.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
    let kept: Vec<clap::Command> = whole.get_subcommands().filter(|c| names.iter().any(|n| n == c.get_name())).cloned().collect();
    let mut bare = clap::Command::new("everpost").version(env!("CARGO_PKG_VERSION"));
    bare = bare.about(whole.get_about().cloned().unwrap_or_default()).after_help(whole.get_after_help().cloned().unwrap_or_default());
    bare.args(whole.get_arguments().cloned()).subcommands(kept)
}

/// Every page: file name and text.
fn pages() -> std::io::Result<Vec<(String, String)>> {
    let mut command = shown();
    command.build(); // gives each command its whole name
    let mut pages = Vec::new();
    page(&command, "everpost", &mut pages)?;
    Ok(pages)
}

fn page(command: &clap::Command, name: &str, pages: &mut Vec<(String, String)>) -> std::io::Result<()> {
    let mut out = Vec::new();
    // No date: the same program gives the same pages.
    clap_mangen::Man::new(command.clone()).date("").manual("Everpost").render(&mut out)?;
    pages.push((format!("{name}.1"), String::from_utf8_lossy(&out).into_owned()));
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        page(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_none_that_is_hidden() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in
            ["everpost.1", "everpost-run.1", "everpost-doctor.1", "everpost-queue-discard.1", "everpost-endpoint-shift.1", "everpost-send-hl7.1"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(!names.iter().any(|n| n.contains("completions") || n.contains("help")), "{names:?}");
        for (name, text) in &pages {
            assert!(text.starts_with(".ie") || text.starts_with(".TH"), "{name}: {}", text.lines().next().unwrap_or_default());
            assert!(text.contains(".SH SYNOPSIS"), "{name}");
        }
        let discard = &pages.iter().find(|(name, _)| name == "everpost-queue-discard.1").unwrap().1;
        assert!(discard.contains("reason") && discard.contains("everpost queue discard"), "{discard}");
        assert_eq!(super::pages().unwrap(), pages, "the same each time");
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut shown(), "everpost", &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("doctor") && text.contains("failback") && !text.contains("completions"), "{shell}");
        }
    }
}
