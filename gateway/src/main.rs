//! The binary `everpost`: arguments in, exit status out.

use clap::Parser;
use everpost_gateway::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::execute(cli::Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}
