//! What the demo shows: one line per event, and a line of counts that is rewritten in place on a terminal.
//! Rules: at most 64 columns; on a terminal narrower than the counts they are not rewritten, because a line that wraps cannot be; no colours and no cursor movements unless it is a terminal; a reader that went away does not stop the demo.
//! Errors: none.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines of counts where they cannot be rewritten.
const PLAIN_EVERY: Duration = Duration::from_secs(3);

/// Where the demo is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    /// To standard error, because standard output carries the report.
    aside: bool,
    begun: Instant,
    told: Option<Instant>,
    pending: bool,
}

impl Screen {
    pub(crate) fn new(aside: bool) -> Self {
        let terminal = if aside { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { terminal, aside, begun: Instant::now(), told: None, pending: false }
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.pending) { "\r\x1b[2K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    /// Something happened.
    pub(crate) fn event(&mut self, text: &str) {
        let (bold, plain) = if self.terminal { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("{:5.1}s  {bold}{text}{plain}", self.begun.elapsed().as_secs_f64()));
    }

    /// The counts as they stand.
    pub(crate) fn counts(&mut self, text: &str) {
        let text = format!("{:5.1}s  {text}", self.begun.elapsed().as_secs_f64());
        if self.terminal && fits(&text, self.columns()) {
            self.pending = true;
            self.write(&format!("\r\x1b[2K{text}"));
        } else if self.told.is_none_or(|told| told.elapsed() >= PLAIN_EVERY) {
            self.told = Some(Instant::now());
            self.line(&text);
        }
    }

    /// Asked each time, because a window changes its size.
    fn columns(&self) -> Option<u16> {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        let descriptor = if self.aside { libc::STDERR_FILENO } else { libc::STDOUT_FILENO };
        // SAFETY: the call writes a `winsize` to where the pointer shows, and nothing where it fails.
        let asked = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
        let told = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        if asked == 0 && size.ws_col > 0 { Some(size.ws_col) } else { told() }
    }

    fn write(&self, text: &str) {
        // Nobody may be looking any more; the demo goes on for its report.
        let _ = if self.aside {
            let mut out = std::io::stderr().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// A line that may be rewritten leaves the last column free: some terminals wrap there already. A width that nobody knows counts as enough.
fn fits(text: &str, columns: Option<u16>) -> bool {
    columns.is_none_or(|columns| text.chars().count() < usize::from(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_shorter_than_the_terminal_is_rewritten() {
        assert!(fits("1234", Some(5)) && fits("1234", None));
        assert!(!fits("1234", Some(4)));
    }
}
