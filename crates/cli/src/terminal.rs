//! Everything that is printed: progress of the engine, results, errors.
//!
//! On a terminal a task is a spinner or a bar that its end replaces by one line; elsewhere it is `text... ` and then
//! `done` on the same line, and bars print nothing in between. A reader that went away (`| head`) is not an error.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use apt_ostree_core::Error;
use apt_ostree_core::event::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::render;
use crate::start;

/// A task whose size is not known. The rest of the line is cut, not wrapped.
const SPINNER: &str = "{spinner} {prefix} {wide_msg}";
const BAR: &str = "{prefix} [{bar:20}] {percent}% {wide_msg}";

/// Where output goes and what of it is wanted.
#[derive(Debug)]
pub(crate) struct Terminal {
    quiet: bool,
    /// stdout carries a document for a program: progress and messages stay away from it.
    document: bool,
    tty: bool,
    colour: bool,
    error_colour: bool,
    width: usize,
    /// Show the output of maintainer scripts.
    script_output: bool,
    state: RefCell<State>,
    /// Everything printed, in order, instead of printing it.
    #[cfg(test)]
    printed: Option<RefCell<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// Open tasks, the innermost last.
    tasks: Vec<String>,
    bar: Option<ProgressBar>,
    /// `text... ` was printed without its end of line.
    line_open: bool,
}

impl Terminal {
    pub(crate) fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let no_colour = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        Self {
            quiet: false,
            document: false,
            tty: stdout.is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
            colour: stdout.is_terminal() && !no_colour,
            error_colour: stderr.is_terminal() && !no_colour,
            width: if columns == 0 { 80 } else { columns },
            script_output: set("APTOSTREE_SCRIPT_DEBUG") || set("RPMOSTREE_SCRIPT_DEBUG"),
            state: RefCell::default(),
            #[cfg(test)]
            printed: None,
        }
    }

    pub(crate) fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// From here on stdout is for one document.
    pub(crate) fn without_progress(&self) -> Self {
        Self {
            quiet: self.quiet,
            document: true,
            tty: self.tty,
            colour: self.colour,
            error_colour: self.error_colour,
            width: self.width,
            script_output: self.script_output,
            state: RefCell::default(),
            #[cfg(test)]
            printed: None,
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Columns of the terminal, 80 when there is none.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn red(&self, text: &str) -> String {
        if self.colour { format!("\x1b[31m\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a finished text on stdout.
    pub(crate) fn print(&self, text: &str) {
        self.close_line();
        self.write(&mut std::io::stdout(), text);
    }

    pub(crate) fn line(&self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    pub(crate) fn print_error(&self, text: &str) {
        self.close_line();
        self.write(&mut std::io::stderr(), text);
    }

    /// An error of the engine or of the arguments.
    pub(crate) fn error(&self, e: &Error) {
        self.drop_tasks();
        let text = render::error(e);
        let text = match text.strip_prefix("error:") {
            Some(rest) if self.error_colour => format!("\x1b[31m\x1b[1merror:\x1b[0m{rest}"),
            _ => text,
        };
        self.print_error(&text);
    }

    pub(crate) fn notice(&self, text: &str) {
        self.print_error(&format!("{text}\n"));
    }

    /// Ends what an error or a signal left open.
    pub(crate) fn drop_tasks(&self) {
        let mut state = self.state.borrow_mut();
        state.tasks.clear();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        drop(state);
        self.close_line();
    }

    /// Shows one step of the engine.
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Warning { text } => {
                self.above_bar(|| self.print_error(&format!("warning: {}\n", start::as_called(text))));
            }
            Event::Output { line } if self.script_output => self.above_bar(|| self.print_error(&format!("{line}\n"))),
            _ if self.quiet || self.document => {}
            Event::Message { text } => self.above_bar(|| self.line(&start::as_called(text))),
            Event::TaskBegin { text } => self.begin(text),
            Event::TaskEnd { suffix } => self.end(suffix),
            Event::Progress { done, total, item } => {
                self.advance(*done, *total, item);
            }
            Event::Download { done, total, rate } => {
                let text = format!("{} of {}, {}/s", render::size(*done), render::size(*total), render::size(*rate));
                self.advance(*done, *total, &text);
            }
            Event::Output { line } => {
                if let Some(bar) = &self.state.borrow().bar {
                    bar.set_message(line.clone());
                }
            }
        }
    }

    fn begin(&self, text: &str) {
        if self.tty {
            self.close_line();
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(ProgressStyle::with_template(SPINNER).expect("the template is constant"));
            bar.set_prefix(text.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            if let Some(outer) = self.state.borrow_mut().bar.replace(bar) {
                outer.finish_and_clear();
            }
        } else {
            self.print(&format!("{text}... "));
            self.state.borrow_mut().line_open = true;
        }
        self.state.borrow_mut().tasks.push(text.to_owned());
    }

    fn end(&self, suffix: &str) {
        let mut state = self.state.borrow_mut();
        let Some(text) = state.tasks.pop() else { return };
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        let open = std::mem::take(&mut state.line_open);
        drop(state);
        self.line(&if open { suffix.to_owned() } else { format!("{text}... {suffix}") });
    }

    fn advance(&self, done: u64, total: u64, item: &str) {
        let state = self.state.borrow();
        let Some(bar) = &state.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(ProgressStyle::with_template(BAR).expect("the template is constant"));
        }
        bar.set_position(done);
        bar.set_message(item.to_owned());
    }

    /// Prints a line so that a running bar stays below it.
    fn above_bar(&self, print: impl FnOnce()) {
        let bar = self.state.borrow().bar.clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn close_line(&self) {
        if std::mem::take(&mut self.state.borrow_mut().line_open) {
            self.write(&mut std::io::stdout(), "\n");
        }
    }

    /// Writes and flushes. There is nobody to tell when the reader is gone.
    fn write(&self, out: &mut impl Write, text: &str) {
        #[cfg(test)]
        if let Some(printed) = &self.printed {
            printed.borrow_mut().push_str(text);
            return;
        }
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Terminal {
        Terminal {
            tty: false,
            colour: false,
            error_colour: false,
            script_output: false,
            printed: Some(RefCell::default()),
            ..Terminal::from_environment()
        }
    }

    fn text(terminal: &Terminal) -> String {
        terminal.printed.as_ref().unwrap().borrow().clone()
    }

    fn begin(text: &str) -> Event {
        Event::TaskBegin { text: text.into() }
    }

    fn end(suffix: &str) -> Event {
        Event::TaskEnd { suffix: suffix.into() }
    }

    /// One task with everything that can come in between.
    fn transcript() -> [Event; 9] {
        [
            begin("Resolving dependencies"),
            end("done"),
            begin("Downloading packages"),
            Event::Download { done: 1, total: 2, rate: 3 },
            Event::Progress { done: 1, total: 2, item: "htop".into() },
            Event::Output { line: "Setting up htop".into() },
            Event::Message { text: "A message".into() },
            Event::Warning { text: "a quirk was used".into() },
            end("2"),
        ]
    }

    #[test]
    fn plain_lines_away_from_a_terminal() {
        let terminal = plain();
        transcript().iter().for_each(|e| terminal.event(e));
        assert_eq!(
            text(&terminal),
            "Resolving dependencies... done\nDownloading packages... \nA message\nwarning: a quirk was used\n\
             Downloading packages... 2\n"
        );
    }

    #[test]
    fn an_error_ends_the_open_task() {
        let terminal = plain();
        terminal.event(&begin("Fetching"));
        terminal.error(&Error::failed("no route"));
        terminal.event(&end("done"));
        assert_eq!(text(&terminal), "Fetching... \nerror: no route\n");
    }

    #[test]
    fn quiet_keeps_warnings() {
        for quiet in [true, false] {
            let terminal = Terminal { quiet, document: !quiet, ..plain() };
            transcript().iter().for_each(|e| terminal.event(e));
            assert_eq!(text(&terminal), "warning: a quirk was used\n");
        }
    }

    #[test]
    fn script_output_is_shown_on_request() {
        let terminal = Terminal { script_output: true, quiet: true, ..plain() };
        transcript().iter().for_each(|e| terminal.event(e));
        assert!(text(&terminal).starts_with("Setting up htop\n"));
    }
}
