//! `sessionfs list` (DESIGN 1).

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::failure::{self, Result, one_line};
use super::output;
use super::state::{Look, Saving, State, age, look};
use super::storage::Storage;
use crate::fs::SCHEMA;
use crate::repo::{Kind, Repository, SessionName};

const AFTER_HELP: &str = "\
Examples:
  sessionfs list
  sessionfs list --long
  sessionfs list | head -n 1
  sessionfs list -r /srv/sessions -0 | xargs -0 -n 1 sessionfs load

States: clean, empty (no checkpoint yet), being saved, locked (by another
program's session.next), dead lock (of a save that died; the next save removes
it), no regular file. Control characters in ids are escaped; --json and -0 give
ids exactly.";

/// List the ids of all sessions, youngest first
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    storage: Storage,

    /// Show size, age and state of each checkpoint
    #[arg(short, long)]
    long: bool,

    /// Print an array of objects
    #[arg(long, conflicts_with_all = ["long", "null"])]
    json: bool,

    /// End each id with NUL, not with a newline
    #[arg(short = '0', long, conflicts_with = "long")]
    null: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let repository = arguments.storage.repository()?;
    let entries = repository.list()?;
    let names = entries.into_iter().map(|entry| entry.name);
    let text = if arguments.json {
        let sessions: Vec<_> = looks(&repository, names).iter().map(object).collect();
        output::json(&Value::from(sessions)).into_bytes()
    } else if arguments.long {
        table(&looks(&repository, names)).into_bytes()
    } else {
        let line = |name: SessionName| match arguments.null {
            true => [name.id().as_bytes(), b"\0"].concat(),
            false => [&output::name(name.id())[..], b"\n"].concat(),
        };
        names.flat_map(line).collect()
    };
    output::write(|out| out.write_all(&text))
}

/// Looks at the sessions. Leaves out those that vanish meanwhile; warns about those
/// that cannot be looked at.
fn looks(
    repository: &Repository,
    names: impl Iterator<Item = SessionName>,
) -> Vec<(SessionName, Look)> {
    let saving = Saving::of(repository.path());
    let one = |name: SessionName| {
        let looked = repository.session(&name).and_then(|s| look(&s, &saving));
        match looked {
            Ok(look) => Some((name, look)),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => {
                failure::warn(&error.to_string());
                None
            }
        }
    };
    names.filter_map(one).collect()
}

fn object((name, look): &(SessionName, Look)) -> Value {
    let seconds = |time: &std::time::SystemTime| {
        let since = time.duration_since(UNIX_EPOCH);
        since.map_or(0, |duration| duration.as_secs())
    };
    let mut object = Value::from(output::object_of(name));
    object["schema"] = json!(SCHEMA);
    object["size"] = json!(look.checkpoint.map(|(size, _)| size));
    object["saved"] = json!(look.checkpoint.as_ref().map(|(_, time)| seconds(time)));
    object["state"] = json!(look.state.name());
    match &look.state {
        State::Saving(pid) => object["pid"] = json!(pid),
        State::Locked(since) | State::DeadLock(since) => object["since"] = json!(seconds(since)),
        State::Odd | State::Empty | State::Clean => {}
    }
    object
}

/// The id comes last: it may be long.
fn table(looks: &[(SessionName, Look)]) -> String {
    let rows: Vec<[String; 4]> = looks
        .iter()
        .map(|(name, look)| {
            let (size, age) = match look.checkpoint {
                Some((size, time)) => (size.to_string(), age(time)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            [size, age, look.state.to_string(), plain(name.id())]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (sizes, ages, states) = (width(0), width(1), width(2));
    rows.iter()
        .map(|[size, age, state, id]| {
            format!("{size:>sizes$}  {age:>ages$}  {state:<states$}  {id}\n")
        })
        .collect()
}

fn plain(id: &OsStr) -> String {
    one_line(&Path::new(id).display().to_string())
}
