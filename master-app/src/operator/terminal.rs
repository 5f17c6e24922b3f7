//! The host's terminal: who waits, and a prompt for the digits they show. Lines only; nothing
//! happens by a bare Enter.

use std::io::Write;

use lanyard_protocol::message::JoinRequestInfo;
use lanyard_protocol::{DeviceKind, MasterToConsole, RequestId};
use tokio::sync::mpsc;

use crate::authority::driver::{DriverHandle, Screen, ScreenUpdate};
use crate::operator::actions::{self, OperatorError};
use crate::operator::console::LoginLinks;
use crate::output::tables::{devices_table, files_table, kind};
use crate::output::text::visible;

/// Lines typed ahead of what was answered.
const TYPED_AHEAD: usize = 16;
/// What the terminal has not shown yet; it is one screen among others and never holds anybody up.
pub(crate) const BEHIND: usize = 1_024;
/// A long list is for `lanyard files`, not for a prompt.
const MANY: usize = 40;

const HELP: &str = "\
  123456          let in the device that shows these digits
  NAME 123456     the same, when several wait
  refuse NAME     turn a device away, for good (a name, an id or its beginning)
  more            let more devices ask than usual, for ten minutes
  devices         who is in, who waits, who was turned away
  files           what is shared
  console         a link to the console in the browser
  quit            stop the hub
";

/// One line that the host typed, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Typed {
    Nothing,
    /// Digits, for a device if one is named, else for the one that is shown.
    Code {
        device: Option<String>,
        code: String,
    },
    Refuse(String),
    AllowMore,
    Devices,
    Files,
    Console,
    Help,
    Quit,
    Unknown(String),
}

fn understand(line: &str) -> Typed {
    let line = line.trim();
    if line.is_empty() {
        return Typed::Nothing;
    }
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (first.to_lowercase().as_str(), rest.trim()) {
        ("refuse" | "turn-away", id) if !id.is_empty() => return Typed::Refuse(id.to_owned()),
        ("more", "") | ("allow-more", "") | ("allow", "more") => return Typed::AllowMore,
        ("devices", "") => return Typed::Devices,
        ("files", "") => return Typed::Files,
        ("console", "") => return Typed::Console,
        ("help" | "?", "") => return Typed::Help,
        ("quit" | "exit", "") => return Typed::Quit,
        _ => {}
    }
    match digits_at_end(line) {
        Some((device, code)) => {
            Typed::Code { device: Some(device).filter(|device| !device.is_empty()), code }
        }
        None => Typed::Unknown(line.to_owned()),
    }
}

/// Six digits at the end, perhaps as `123 456`, and what stands before them.
fn digits_at_end(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let split = |words_of_code: usize| {
        let (device, code) = words.split_at(words.len() - words_of_code);
        (device.join(" "), code.concat().replace('-', ""))
    };
    let is_code = |code: &str| code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit());
    (1..=words.len().min(6)).map(split).find(|(_, code)| is_code(code))
}

/// The terminal's state: who waits, and whom the prompt is about.
struct Terminal {
    driver: DriverHandle,
    door: LoginLinks,
    knocks: Vec<JoinRequestInfo>,
    /// How many wait until they may be asked about.
    in_line: u32,
    /// The knock that the person was told of last: bare digits are for this one.
    asked_about: Option<RequestId>,
}

/// Watches and answers until the person quits, or the hub ends.
pub(crate) async fn run(driver: DriverHandle, door: LoginLinks, mut screen: Screen) {
    let mut lines = typed_lines();
    let mut terminal = Terminal { driver, door, knocks: Vec::new(), in_line: 0, asked_about: None };
    let mut input_open = true;
    loop {
        tokio::select! {
            shown = screen.shown.recv() => match shown {
                Some(ScreenUpdate::Message { message, .. }) => terminal.told(&message),
                Some(ScreenUpdate::Event(_)) => {}
                None => match terminal.driver.subscribe(BEHIND).await {
                    Ok(next) => screen = next,
                    Err(_) => return,
                },
            },
            line = lines.recv(), if input_open => match line {
                Some(line) => {
                    if terminal.typed(&line).await {
                        return;
                    }
                }
                // No more input, as from a closed pipe: the hub goes on.
                None => input_open = false,
            },
        }
    }
}

/// Lines of standard input. Reading blocks, so a thread does it; the process does not wait for it
/// at the end.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(TYPED_AHEAD);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A terminal that is gone takes no text; the hub goes on without it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn say(text: &str) -> Result<(), OperatorError> {
    print(text);
    Ok(())
}

impl Terminal {
    fn told(&mut self, message: &MasterToConsole) {
        match message {
            MasterToConsole::Knocks(said) => {
                self.knocks_are(said.knocks.clone());
                self.in_line_are(said.waiting);
            }
            MasterToConsole::ClientApproved(said) if said.client.kind == DeviceKind::Master => {}
            MasterToConsole::ClientApproved(said) => {
                print(&format!("{} is in\n", visible(&said.client.name)))
            }
            MasterToConsole::Refused(_) => {}
            MasterToConsole::RelayState(said) if !said.ready => {
                print("the relay is away; trying again\n")
            }
            MasterToConsole::RelayState(_) => print("the relay is back\n"),
            MasterToConsole::ConsoleRegisterAck(_)
            | MasterToConsole::Door(_)
            | MasterToConsole::Problems(_)
            | MasterToConsole::Invitation(_)
            | MasterToConsole::FeedPage(_)
            | MasterToConsole::FeedDirty(_)
            | MasterToConsole::ClientDisApproved(_)
            | MasterToConsole::ClientUpdated(_)
            | MasterToConsole::ClientDisconnected(_)
            | MasterToConsole::ClientReconnected(_)
            | MasterToConsole::Presence(_)
            | MasterToConsole::FilesAdded(_)
            | MasterToConsole::FilesUpdated(_)
            | MasterToConsole::FileRemoved(_)
            | MasterToConsole::FilesWithdrawn(_)
            | MasterToConsole::UpdateNameAck(_)
            | MasterToConsole::ForgetClientAck(_)
            | MasterToConsole::LinkMade(_)
            | MasterToConsole::LinkDropped(_)
            | MasterToConsole::LinksPage(_)
            | MasterToConsole::RequestFailed(_)
            | MasterToConsole::Pong(_) => {}
        }
    }

    fn present(&self) -> impl Iterator<Item = &JoinRequestInfo> {
        self.knocks.iter().filter(|knock| !knock.left)
    }

    /// Shows the oldest that waits, when that is another one than before.
    fn knocks_are(&mut self, knocks: Vec<JoinRequestInfo>) {
        let came = knocks.iter().filter(|knock| !knock.left).count() > self.present().count();
        for gone in knocks.iter().filter(|knock| knock.left && !self.knows_as_left(knock)) {
            print(&left_words(gone));
        }
        self.knocks = knocks;
        let Some(oldest) = self.present().next().cloned() else {
            self.asked_about = None;
            return;
        };
        if self.asked_about != Some(oldest.request_id) {
            self.asked_about = Some(oldest.request_id);
            print(&prompt(&oldest, self.present().count()));
        } else if came {
            print(&format!("({} wait in all; one after the other)\n", self.present().count()));
        }
    }

    fn knows_as_left(&self, knock: &JoinRequestInfo) -> bool {
        self.knocks.iter().any(|known| known.left && known.request_id == knock.request_id)
    }

    /// Says once that a crowd waits behind those who are shown, and what can be done for it.
    fn in_line_are(&mut self, in_line: u32) {
        if in_line > 0 && self.in_line == 0 {
            print(&crowd_words(in_line));
        }
        self.in_line = in_line;
    }

    async fn allow_more(&self) -> Result<(), OperatorError> {
        actions::allow_more(&self.driver).await?;
        say(&format!("{}\n", actions::MORE_ALLOWED))
    }

    /// Whether the person wants to stop.
    async fn typed(&mut self, line: &str) -> bool {
        let result = match understand(line) {
            Typed::Nothing => Ok(()),
            Typed::Quit => return true,
            Typed::Help => say(HELP),
            Typed::Console => self.console(),
            Typed::AllowMore => self.allow_more().await,
            Typed::Devices => self.devices().await,
            Typed::Files => self.files().await,
            Typed::Refuse(id) => self.refuse(&id).await,
            Typed::Code { device, code } => self.code(device, code).await,
            Typed::Unknown(line) => {
                say(&format!("unknown command: {}; type `help` for the list\n", visible(&line)))
            }
        };
        if let Err(refusal) = result {
            print(&format!("{refusal}\n"));
        }
        false
    }

    fn console(&self) -> Result<(), OperatorError> {
        let link = self.door.link().map_err(|error| {
            OperatorError::new(crate::output::exit::Exit::Failed, error.to_string())
        })?;
        say(&format!("{link}\n(opens once, within a minute)\n"))
    }

    async fn devices(&self) -> Result<(), OperatorError> {
        say(&devices_table(&self.driver.query(|authority, _| actions::devices(authority)).await?))
    }

    async fn files(&self) -> Result<(), OperatorError> {
        let rows = self.driver.query(|authority, _| actions::files(authority)).await?;
        print(&files_table(&rows[..rows.len().min(MANY)]));
        if rows.len() > MANY {
            print(&format!("… and {} more; `lanyard files` lists them all\n", rows.len() - MANY));
        }
        Ok(())
    }

    async fn refuse(&self, id: &str) -> Result<(), OperatorError> {
        let device = actions::resolve_live(&self.driver, id).await?;
        actions::refuse(&self.driver, device).await?;
        say("turned away\n")
    }

    /// Bare digits are for the knock on the screen and for no other, so that nobody comes in by a
    /// near miss.
    async fn code(&mut self, device: Option<String>, code: String) -> Result<(), OperatorError> {
        let meant = match device {
            Some(name) => (actions::resolve_live(&self.driver, &name).await?, None),
            None => {
                let asked = self
                    .asked_about
                    .and_then(|id| self.knocks.iter().find(|knock| knock.request_id == id));
                let Some(knock) = asked else {
                    return say("nobody waits\n");
                };
                (knock.public_id, Some(knock.request_id))
            }
        };
        actions::approve(&self.driver, meant.0, meant.1, Some(code), None).await
    }
}

/// Tells of a device that asked and was gone again: whoever tries digits that way is seen.
fn left_words(knock: &JoinRequestInfo) -> String {
    let name = visible(&knock.name);
    let address = visible(&knock.address);
    format!("{name} (from {address}) left before you answered\n")
}

fn crowd_words(in_line: u32) -> String {
    let devices = if in_line == 1 {
        "1 more device is".into()
    } else {
        format!("{in_line} more devices are")
    };
    format!(
        "{devices} waiting; they are shown little by little, so that nobody can flood you.\n  \
         Expecting many? Type `more` to be asked about more of them for ten minutes.\n"
    )
}

/// Returns the question about a device: its name, its address, and the reply to type.
fn prompt(knock: &JoinRequestInfo, waiting: usize) -> String {
    let platform = match knock.platform.as_str() {
        "" => String::new(),
        platform => format!(", {}", visible(platform)),
    };
    let mut text = format!(
        "\n{} knocks ({}{platform}, from {})\n",
        visible(&knock.name),
        kind(knock.kind),
        visible(&knock.address)
    );
    if let Some(other) = &knock.looks_like {
        text.push_str(&format!(
            "  Careful: that looks like {}, who is in already.\n",
            visible(other)
        ));
    }
    if let Some(other) = &knock.like_refused {
        text.push_str(&format!(
            "  Careful: that looks like {}, who was turned away.\n",
            visible(&other.name)
        ));
    }
    if waiting > 1 {
        text.push_str(&format!("  ({waiting} wait in all; one after the other)\n"));
    }
    let id = knock.public_id.to_string();
    text.push_str(&format!("  Type the six digits that it shows, or `refuse {}`:\n", &id[..8]));
    text
}

#[cfg(test)]
mod tests {
    //! Promises: nothing but the right digits lets anybody in, and bare digits are for the one on
    //! the screen.

    use lanyard_protocol::message::JoinRequestList;

    use super::*;
    use crate::authority::driver::tests::DriverFixture;

    #[test]
    fn lines_are_understood() {
        let code = |device: Option<&str>, code: &str| Typed::Code {
            device: device.map(Into::into),
            code: code.into(),
        };
        for (line, typed) in [
            ("", Typed::Nothing),
            ("   ", Typed::Nothing),
            ("123456", code(None, "123456")),
            (" 123 456 ", code(None, "123456")),
            ("Ana’s iPhone 123456", code(Some("Ana’s iPhone"), "123456")),
            ("Ana 123 456", code(Some("Ana"), "123456")),
            ("refuse Ana’s iPhone", Typed::Refuse("Ana’s iPhone".into())),
            ("devices", Typed::Devices),
            ("more", Typed::AllowMore),
            ("Allow more", Typed::AllowMore),
            ("QUIT", Typed::Quit),
            ("refuse", Typed::Unknown("refuse".into())),
            ("12345", Typed::Unknown("12345".into())),
            ("abc123456", Typed::Unknown("abc123456".into())),
            ("1234567", Typed::Unknown("1234567".into())),
            ("y", Typed::Unknown("y".into())),
        ] {
            assert_eq!(understand(line), typed, "{line:?}");
        }
    }

    async fn terminal(bench: &DriverFixture) -> (Terminal, Screen) {
        let screen = bench.driver.subscribe(BEHIND).await.unwrap();
        let door = LoginLinks::new(([127, 0, 0, 1], 1).into());
        (
            Terminal {
                driver: bench.driver.clone(),
                door,
                knocks: vec![],
                in_line: 0,
                asked_about: None,
            },
            screen,
        )
    }

    fn catch_up(terminal: &mut Terminal, screen: &mut Screen) {
        while let Ok(shown) = screen.shown.try_recv() {
            if let ScreenUpdate::Message { message, .. } = shown {
                terminal.told(&message);
            }
        }
    }

    #[tokio::test]
    async fn bare_digits_are_for_the_oldest_only() {
        let mut bench = DriverFixture::new().await;
        let (mut terminal, mut screen) = terminal(&bench).await;
        let (_, _) = bench.knock(7, "Ana").await;
        let (_, second) = bench.knock(8, "Ben").await;
        bench.driver.query(|_, _| ()).await.unwrap();
        catch_up(&mut terminal, &mut screen);
        for nothing in ["", "y", "\n"] {
            assert!(!terminal.typed(nothing).await);
        }
        assert!(!terminal.typed(&second).await);
        let knocks =
            bench.driver.query(|authority, _| authority.knocks(true).knocks).await.unwrap();
        assert_eq!((knocks.len(), knocks[0].tries_left, knocks[1].tries_left), (2, 2, 3));

        let naming = tokio::spawn(async move { terminal.typed(&format!("Ben {second}")).await });
        bench.ack_approval().await;
        assert!(!naming.await.unwrap());
        let knocks =
            bench.driver.query(|authority, _| authority.knocks(true).knocks).await.unwrap();
        assert_eq!((knocks.len(), knocks[0].name.as_str()), (1, "Ana"));
    }

    /// Whoever asked and was gone is told of, once, and bare digits are no longer for that knock.
    #[tokio::test]
    async fn a_departure_is_told_and_nobody_is_admitted_in_its_place() {
        let mut bench = DriverFixture::new().await;
        let (mut terminal, mut screen) = terminal(&bench).await;
        let (request, code) = bench.knock(7, "Ana").await;
        bench.driver.query(|_, _| ()).await.unwrap();
        catch_up(&mut terminal, &mut screen);
        assert_eq!(terminal.asked_about, Some(request.request_id));
        let mut left = terminal.knocks.clone();
        left[0].left = true;
        assert!(!terminal.knows_as_left(&left[0]));
        let words = left_words(&left[0]);
        assert_eq!(words, "Ana (from 192.168.1.5) left before you answered\n");
        terminal.told(&MasterToConsole::Knocks(JoinRequestList {
            knocks: left.clone(),
            waiting: 0,
            more_for_ms: None,
        }));
        assert!(terminal.knows_as_left(&left[0]));
        assert_eq!(terminal.asked_about, None);
        assert!(!terminal.typed(&code).await);
        let knocks =
            bench.driver.query(|authority, _| authority.knocks(true).knocks).await.unwrap();
        assert_eq!(
            (knocks.len(), knocks[0].tries_left),
            (1, 3),
            "nobody was meant by these digits"
        );
    }

    #[tokio::test]
    async fn a_host_who_expects_many_may_say_so() {
        let bench = DriverFixture::new().await;
        let (mut terminal, _screen) = terminal(&bench).await;
        assert!(crowd_words(1).starts_with("1 more device is waiting"));
        assert!(crowd_words(14).starts_with("14 more devices are waiting"));
        assert!(!terminal.typed("more").await);
        let knocks = bench.driver.query(|authority, _| authority.knocks(false)).await.unwrap();
        assert!(knocks.more_for_ms.is_some());
    }

    #[test]
    fn the_prompt_shows_names_that_cannot_lie() {
        let knock = JoinRequestInfo {
            request_id: RequestId([1; 16]),
            public_id: lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([0xab; 16])),
            name: "\u{202e}anA".into(),
            kind: DeviceKind::Browser,
            platform: "Safari".into(),
            address: "192.168.1.5".into(),
            asked_ms: 0,
            tries_left: 3,
            left: false,
            like_refused: None,
            looks_like: Some("Ana".into()),
            code: Some("123456".into()),
        };
        let text = prompt(&knock, 2);
        assert!(text.contains("\\u{202e}anA knocks (browser, Safari, from 192.168.1.5)"), "{text}");
        assert!(
            text.contains("looks like Ana")
                && text.contains("refuse abababab")
                && !text.contains("123456")
        );
    }
}
