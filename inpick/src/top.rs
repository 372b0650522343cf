//! `inpick top`: the live table in a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};

use crate::source::{Access, Reader, Url};
use crate::state::State;
use crate::table::{Column, Line, View, endpoints, pools};

/// Shares and rates need two looks at Envoy's page.
const SECOND_LOOK: Duration = Duration::from_millis(1_200);

/// What `top` is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct TopFlags {
    /// The sidecar
    #[arg(default_value = "http://127.0.0.1:9090")]
    url: Url,
    /// Prints the table once and ends
    #[arg(long)]
    once: bool,
    /// Time between looks, seconds
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    interval: Duration,
    /// What to sort by: numbers from the largest
    #[arg(long, value_enum, default_value_t, value_name = "COLUMN")]
    sort: Column,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// Shows this pool alone
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pool: String,
    /// Shows endpoints that have each of these words in their name, address, pool or state
    #[arg(long, default_value = "", hide_default_value = true, value_name = "WORDS")]
    filter: String,
    #[command(flatten)]
    access: Access,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds from 0.1 to 3600".to_owned())
}

/// Shows the table until somebody ends it.
///
/// # Errors
///
/// Why there is no state, or no terminal.
pub(crate) fn run(flags: &TopFlags) -> Result<(), String> {
    let mut url = flags.url.clone();
    // Whoever names the sidecar alone, or its live page, means its state.
    if url.path == "/" {
        url.path = "/api/state".to_owned();
    }
    let mut reader = Reader::new(&url, &flags.access)?;
    let mut look = move || -> Result<State, String> {
        let bytes = reader.read().map_err(|error| format!("{url}: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{url}: not the state of a sidecar: {error}"))
    };
    let view =
        View { pool: flags.pool.clone(), filter: flags.filter.clone(), sort: flags.sort, is_reversed: flags.reverse };
    if flags.once {
        look()?;
        std::thread::sleep(SECOND_LOOK);
        return print(&look()?, &view).map_err(|error| error.to_string());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("there is no terminal; --once prints the table once".to_owned());
    }
    let first = look()?;
    let screen = Screen::enter().map_err(|error| error.to_string())?;
    let shown = show(look, first, view, flags.interval);
    drop(screen);
    shown.map_err(|error| error.to_string())
}

fn print(state: &State, view: &View) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (heading, lines) = endpoints(state, view);
    for line in pools(state, view) {
        writeln!(out, "{}", line.text)?;
    }
    writeln!(out, "{heading}")?;
    lines.iter().try_for_each(|line| writeln!(out, "{}", line.text))
}

/// The terminal while it shows the table. Dropping it gives it back.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// What is on the screen.
#[derive(Debug)]
struct Shown {
    state: State,
    view: View,
    problem: Option<String>,
    first: usize,
    is_paused: bool,
    /// The filter is being written.
    is_writing: bool,
}

/// What a key does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Draw,
    End,
}

fn show(
    mut look: impl FnMut() -> Result<State, String>,
    state: State,
    view: View,
    interval: Duration,
) -> io::Result<()> {
    let mut shown = Shown { state, view, problem: None, first: 0, is_paused: false, is_writing: false };
    let mut due = Instant::now() + interval;
    loop {
        let (width, height) = match size()? {
            // A terminal that nobody told its size.
            (0, _) | (_, 0) => (80, 24),
            size => size,
        };
        let lines = shown.lines(usize::from(height));
        draw(&mut io::stdout().lock(), &lines, usize::from(width), usize::from(height))?;
        if poll(due.saturating_duration_since(Instant::now()))? {
            let pressed = match read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => shown.press(key, usize::from(height)),
                // The terminal has another size, or was pasted into.
                _ => Next::Draw,
            };
            if pressed == Next::End {
                return Ok(());
            }
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            if !shown.is_paused {
                match look() {
                    Ok(state) => (shown.state, shown.problem) = (state, None),
                    Err(problem) => shown.problem = Some(problem),
                }
            }
        }
    }
}

impl Shown {
    fn press(&mut self, key: KeyEvent, height: usize) -> Next {
        let page = height.saturating_sub(6).max(1);
        let last = endpoints(&self.state, &self.view).1.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::End,
            KeyCode::Esc if self.is_writing => {
                self.is_writing = false;
                self.view.filter.clear();
            }
            KeyCode::Enter if self.is_writing => self.is_writing = false,
            KeyCode::Backspace if self.is_writing => drop(self.view.filter.pop()),
            KeyCode::Char(character) if self.is_writing => {
                self.view.filter.push(character);
                self.first = 0;
            }
            KeyCode::Char('q') | KeyCode::Esc => return Next::End,
            KeyCode::Char('s') => self.view.sort = self.view.sort.next(),
            KeyCode::Char('r') => self.view.is_reversed = !self.view.is_reversed,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_writing = true,
            KeyCode::Down => self.first = (self.first + 1).min(last),
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first = (self.first + page).min(last),
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = last,
            _ => {}
        }
        Next::Draw
    }

    /// What fills a screen of that height, and how each line looks.
    fn lines(&self, height: usize) -> Vec<(Look, String)> {
        let as_look = |line: Line| (if line.is_good { Look::Plain } else { Look::Bad }, line.text);
        let mut lines: Vec<(Look, String)> = pools(&self.state, &self.view).into_iter().map(as_look).collect();
        lines.extend(self.problem.iter().map(|problem| (Look::Bad, problem.clone())));
        let (heading, rows) = endpoints(&self.state, &self.view);
        let count = rows.len();
        lines.push((Look::Heading, heading));
        let room = height.saturating_sub(lines.len() + 1);
        lines.extend(rows.into_iter().skip(self.first).take(room).map(as_look));
        let paused = if self.is_paused { "paused  " } else { "" };
        let filter = match (self.is_writing, self.view.filter.is_empty()) {
            (true, _) => format!("/{}▏ (Enter keeps it, Esc drops it)", self.view.filter),
            (false, false) => format!("/{}  ", self.view.filter),
            (false, true) => String::new(),
        };
        let keys = if self.is_writing { "" } else { "q ends  s sorts  r reverses  / filters  p pauses" };
        lines.push((Look::Faint, format!("{count} endpoints  {paused}{filter}{keys}")));
        lines
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    Plain,
    Bad,
    Heading,
    Faint,
}

fn draw(out: &mut impl Write, lines: &[(Look, String)], width: usize, height: usize) -> io::Result<()> {
    for (row, (look, text)) in (0_u16..).zip(lines.iter().take(height)) {
        queue!(out, MoveTo(0, row))?;
        match look {
            Look::Plain => {}
            Look::Bad => queue!(out, SetForegroundColor(Color::Yellow))?,
            Look::Heading => queue!(out, SetAttribute(Attribute::Bold))?,
            Look::Faint => queue!(out, SetAttribute(Attribute::Dim))?,
        }
        // What a pod or a page said may hold anything; a terminal would obey it.
        let text: String = text.chars().filter(|character| !character.is_control()).take(width).collect();
        queue!(out, Print(text), SetAttribute(Attribute::Reset), ResetColor, Clear(ClearType::UntilNewLine))?;
    }
    queue!(out, Clear(ClearType::FromCursorDown))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(count: usize) -> Shown {
        let endpoint = |number: usize| {
            format!(
                r#"{{"pool":"p","address":"10.0.0.{number}:80","pod":"","namespace":"","engine":null,"state":"fresh","problem":null,"waiting":1,
                "running":{number},"kv_cache_usage":null,"age_ms":1,"in_flight":null,"picks":null,"share":null,"failures":null,"ejections":null,
                "predicted_wait_ms":null}}"#
            )
        };
        let endpoints: Vec<String> = (1..=count).map(endpoint).collect();
        let text = format!(r#"{{"envoy_problem":null,"pools":[],"endpoints":[{}]}}"#, endpoints.join(","));
        let state = serde_json::from_str(&text).unwrap_or_default();
        Shown { state, view: View::default(), problem: None, first: 0, is_paused: false, is_writing: false }
    }

    fn press(shown: &mut Shown, keys: &[KeyCode]) -> Next {
        keys.iter().map(|key| shown.press(KeyEvent::from(*key), 10)).last().unwrap_or(Next::Draw)
    }

    fn first(shown: &Shown) -> String {
        let lines = shown.lines(10);
        lines.get(1).and_then(|(_, text)| text.split_whitespace().next()).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_screen_is_filled_and_no_more() {
        let shown = shown(50);
        let lines = shown.lines(10);
        assert_eq!(lines.len(), 10);
        assert_eq!(lines.first().map(|(look, _)| *look), Some(Look::Heading));
        assert!(lines.last().is_some_and(|(_, text)| text.starts_with("50 endpoints  q ends")));
    }

    #[test]
    fn keys_scroll_sort_filter_pause_and_end() {
        let mut shown = shown(9);
        assert_eq!(first(&shown), "10.0.0.1:80");
        press(&mut shown, &[KeyCode::Down, KeyCode::Down, KeyCode::Up]);
        assert_eq!(first(&shown), "10.0.0.2:80");
        press(&mut shown, &[KeyCode::End, KeyCode::Down]);
        assert_eq!(first(&shown), "10.0.0.9:80");
        press(&mut shown, &[KeyCode::Home, KeyCode::Char('s'), KeyCode::Char('s'), KeyCode::Char('s')]);
        assert_eq!((first(&shown).as_str(), shown.view.sort), ("10.0.0.9:80", Column::Running));
        press(&mut shown, &[KeyCode::Char('r')]);
        assert_eq!(first(&shown), "10.0.0.1:80");
        press(
            &mut shown,
            &[KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Char('7'), KeyCode::Enter],
        );
        assert_eq!((first(&shown).as_str(), shown.view.filter.as_str()), ("10.0.0.7:80", "7"));
        press(&mut shown, &[KeyCode::Char('/'), KeyCode::Esc, KeyCode::Char('p')]);
        assert_eq!((shown.is_paused, shown.view.filter.as_str()), (true, ""));
        assert_eq!(press(&mut shown, &[KeyCode::Char('q')]), Next::End);
        assert_eq!(shown.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), 10), Next::End);
    }

    #[test]
    fn a_terminal_is_sent_no_commands_of_others() {
        let mut out = Vec::new();
        let lines = [(Look::Plain, "a\u{1b}[2Jb".to_owned()), (Look::Bad, "too long for it".to_owned())];
        assert!(draw(&mut out, &lines, 8, 10).is_ok());
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("a[2Jb") && text.contains("too long") && !text.contains("too long "), "{text:?}");
    }
}
