//! What is watched on a terminal: on the screen beside the usual one, so that what stood there comes back; drawn over what
//! it replaces, so that nothing flickers; drawn anew when the terminal gets another size.

use super::AGAIN;
use console::Term;
use std::io::{self, Write};
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};

/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What is between these is shown at once, by terminals that know it.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// Shows what is told again each second, until Ctrl-C; the last of it stays on the usual screen. A server that goes away
/// meanwhile is asked again: it may be restarted.
pub(super) async fn watch<F>(first: String, mut ask: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<String>>,
{
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut resized = signal(SignalKind::window_change())?;
    let screen = Screen::enter()?;
    // What was told last, and why there is nothing newer.
    let (mut block, mut trouble) = (first, String::new());
    let mut again = time::interval(AGAIN);
    again.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    again.reset();
    loop {
        draw(&format!("{trouble}{block}"))?;
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = resized.recv() => {}
            _ = again.tick() => {
                let told = tokio::select! {
                    told = ask() => told,
                    _ = interrupt.recv() => break,
                    _ = terminate.recv() => break,
                };
                match told {
                    Ok(told) => (block, trouble) = (told, String::new()),
                    Err(error) => trouble = format!("{error:#}; this is what it told last:\n\n"),
                }
            }
        }
    }
    drop(screen);
    print!("{block}");
    Ok(())
}

fn draw(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(frame(text, Term::stdout().size()).as_bytes())?;
    out.flush()
}

/// As long as it lives, the other screen is shown. It goes however watching ends.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // A terminal that is gone needs nothing put back.
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    }
}

/// From the upper left corner on, as much as there is room for, what is left out counted; nothing else below.
fn frame(text: &str, (rows, columns): (u16, u16)) -> String {
    let (rows, columns) = (usize::from(rows).max(2), usize::from(columns).max(2));
    let lines: Vec<_> = text.lines().collect();
    let shown = if lines.len() > rows { rows - 1 } else { lines.len() };
    let more = lines.len() - shown;
    let more = (more > 0).then(|| format!("… and {more} more lines"));
    let lines =
        lines[..shown].iter().map(|line| cut(line, columns)).chain(more.map(|more| cut(&more, columns)));
    // Without an end of the last line, at which the terminal would scroll.
    format!("{BEGIN}\x1b[H{}\x1b[J{END}", lines.collect::<Vec<_>>().join("\r\n"))
}

/// As much of a line as there is room for, without the last column: after a character there, terminals differ in what they
/// clear.
fn cut(line: &str, columns: usize) -> String {
    let room = columns - 1;
    match line.chars().count() <= room {
        true => format!("{line}\x1b[K"),
        false => line.chars().take(room - 1).chain("…\x1b[K".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_holds_what_there_is_room_for() {
        for (text, size, expected) in [
            ("a\n", (24, 80), "a\x1b[K"),
            ("abc\nabcd\ne\n", (3, 4), "abc\x1b[K\r\nab…\x1b[K\r\ne\x1b[K"),
            ("a\nb\nc\nd\n", (3, 30), "a\x1b[K\r\nb\x1b[K\r\n… and 2 more lines\x1b[K"),
            ("", (0, 0), ""),
        ] {
            assert_eq!(frame(text, size), format!("{BEGIN}\x1b[H{expected}\x1b[J{END}"), "{text}");
        }
    }
}
