//! The ways of saving that are tried, each with what has to come of it.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::acknowledged::{State, WITH_ORIGINAL, name};
use crate::attributes::{self, Owner, any_owner, version};
use crate::content::{Contents, Label};
use crate::progress::Progress;
use crate::result::Result;
use crate::saving::{BESIDE, Save, acting_as, replace_directly};
use crate::writers::{self, Doomed, Endless, How};

const ROOT: Owner = (0, 0);

#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Truncate, write, close.
    Truncate,
    /// Write another file, without fsync, and rename it.
    Rename,
    /// The same, from another directory.
    Move,
    /// Two save points by fsync, and a close that has nothing left to save.
    SavePoints,
    /// Change some bytes of what is there, close.
    Edit,
    /// Remove, make a new one, write, close.
    Replace,
    /// Truncate or edit, set owner, mode and attributes between two writes, close.
    Attributes,
    /// Two writers at once.
    Two,
    /// A writer that is killed, and saves nothing (DESIGN 2.6).
    Killed,
    /// One that is killed after a save point, which stays.
    KilledLater,
    /// By the command, beside the mount.
    Command,
    /// In the repository, between two saves of the mount.
    Direct,
    /// In the repository, while a writer is open.
    Overtaken,
    /// As the original does, in the repository: it marks nothing.
    Original,
}

const WAYS: [Way; 26] = [
    Way::Truncate,
    Way::Truncate,
    Way::Truncate,
    Way::Rename,
    Way::Rename,
    Way::Move,
    Way::SavePoints,
    Way::SavePoints,
    Way::Edit,
    Way::Edit,
    Way::Replace,
    Way::Replace,
    Way::Attributes,
    Way::Attributes,
    Way::Attributes,
    Way::Two,
    Way::Two,
    Way::Two,
    Way::Killed,
    Way::Killed,
    Way::KilledLater,
    Way::Command,
    Way::Direct,
    Way::Overtaken,
    Way::Overtaken,
    Way::Overtaken,
];

/// One of them.
pub fn choose(progress: &mut Progress<'_>) -> Way {
    let way = WAYS[progress.random.below(WAYS.len() as u64) as usize];
    match progress.arguments.number == WITH_ORIGINAL && progress.one_in(3) {
        true => Way::Original,
        false => way,
    }
}

/// A user who may write to the checkpoint, or make the first one: root, or its owner.
fn any_writer(progress: &mut Progress<'_>) -> Owner {
    let owner = match progress.last {
        Some(last) => attributes::owner(last),
        None => any_owner(&mut progress.random),
    };
    let checkpoint = progress.behind().join("session");
    // A daemon with a defect may have given it others: the checker is to find that.
    let may_write = |last| {
        attributes::may_write(last, owner)
            && matches!(attributes::wrong(&checkpoint, last), Ok(None))
    };
    match progress.last.is_none_or(may_write) && progress.one_in(2) {
        true => owner,
        false => ROOT,
    }
}

/// The attributes that this save sets, of an owner whom its writer may choose.
fn own_version(progress: &mut Progress<'_>, label: Label, writer: Owner) -> u64 {
    let owner = match writer == ROOT {
        true => any_owner(&mut progress.random),
        false => writer,
    };
    version(label.counter, owner)
}

/// The attributes of a new file by this user: its own, or as it is made.
fn new_version(progress: &mut Progress<'_>, label: Label, writer: Owner) -> u64 {
    match progress.one_in(2) {
        true => own_version(progress, label, writer),
        false => version(0, writer),
    }
}

pub fn save(progress: &mut Progress<'_>, way: Way) -> Result<()> {
    let directory = progress.directory();
    let session = directory.join("session");
    let mut label = progress.next();
    match way {
        Way::Truncate => {
            let writer = any_writer(progress);
            if progress.last.is_none() {
                label.attributes = version(0, writer);
            }
            let contents = &progress.contents;
            acting_as(writer, || Save::truncate(&session, contents, label)?.save())?;
        }
        Way::Edit | Way::Attributes => {
            let Some(last) = progress.last else {
                return save(progress, Way::Truncate);
            };
            let writer = any_writer(progress);
            let is_edit = matches!(way, Way::Edit) || progress.one_in(2);
            if is_edit {
                let counter = label.counter;
                label = Label { counter, ..last };
            }
            if matches!(way, Way::Attributes) {
                label.attributes = own_version(progress, label, writer);
            }
            let contents = &progress.contents;
            acting_as(writer, || match is_edit {
                true => Save::edit(&session, contents, label)?.save(),
                false => Save::truncate(&session, contents, label)?.save(),
            })?;
        }
        Way::Two => return two(progress, label),
        Way::Killed | Way::KilledLater => {
            return killed(progress, label, matches!(way, Way::KilledLater));
        }
        Way::Overtaken => return overtaken(progress, label),
        Way::Rename | Way::Move => {
            label.attributes = new_version(progress, label, ROOT);
            let from = match way {
                Way::Move => directory.join("logs"),
                _ => directory,
            };
            fs::create_dir_all(&from)?;
            let beside = from.join(BESIDE);
            Save::truncate(&beside, &progress.contents, label)?.save()?;
            fs::rename(&beside, &session)?;
        }
        Way::SavePoints => {
            if progress.last.is_some() && progress.one_in(2) {
                label.attributes = own_version(progress, label, ROOT);
            }
            let contents = Contents::new();
            let mut writer = Save::truncate(&session, &contents, label)?;
            writer.sync()?;
            progress.saved(label)?;
            // From now on what it sets would be the save point's as well (DESIGN 4).
            let label = progress.next();
            writer.go_on(label)?;
            writer.sync()?;
            progress.saved(label)?;
            writer.close()?;
            return Ok(());
        }
        Way::Replace => {
            let writer = any_owner(&mut progress.random);
            label.attributes = new_version(progress, label, writer);
            let (contents, is_there) = (&progress.contents, progress.last.is_some());
            acting_as(writer, || {
                if is_there {
                    fs::remove_file(&session)?;
                }
                Save::truncate(&session, contents, label)?.save()
            })?;
        }
        Way::Command => command(progress, label)?,
        Way::Direct | Way::Original => {
            label.attributes = new_version(progress, label, ROOT);
            let name = match way {
                Way::Original => "session.next",
                _ => BESIDE,
            };
            replace_directly(&progress.behind(), name, (&progress.contents, label))?;
        }
    }
    progress.saved(label)
}

/// A checkpoint of another owner, mode and attributes takes the place of the one
/// that a writer has begun from (DESIGN 2.9, 13.1). The writer's save takes its
/// attributes, if it had truncated, may write it, and has set none itself; else it
/// is refused.
fn overtaken(progress: &mut Progress<'_>, direct: Label) -> Result<()> {
    let direct = Label {
        attributes: new_version(progress, direct, ROOT),
        ..direct
    };
    if progress.last.is_none() {
        replace_directly(&progress.behind(), BESIDE, (&progress.contents, direct))?;
        return progress.saved(direct);
    }
    let Some(last) = progress.last else {
        return Ok(());
    };
    let writer = any_writer(progress);
    let mut label = progress.next();
    let forbidden = (!attributes::may_write(direct, writer)).then_some(libc::EACCES);
    let (is_edit, expected) = match progress.random.below(4) {
        0 => {
            let counter = label.counter;
            label = Label { counter, ..last };
            (true, Some(libc::ESTALE))
        }
        1 => {
            label.attributes = own_version(progress, label, writer);
            (false, forbidden.or(Some(libc::ESTALE)))
        }
        _ => {
            label.attributes = direct.attributes;
            (false, forbidden)
        }
    };
    let session = progress.directory().join("session");
    let contents = &progress.contents;
    let save = acting_as(writer, || {
        let save = match is_edit {
            true => Save::edit(&session, contents, label)?,
            false => Save::truncate(&session, contents, label)?,
        };
        save.begin().map(|()| save)
    })?;
    replace_directly(&progress.behind(), BESIDE, (contents, direct))?;
    let closed = acting_as(writer, || {
        save.finish()?;
        Ok(save.close())
    })?;
    let errno = closed.err().map(|e| e.raw_os_error().unwrap_or_default());
    if errno != expected {
        return Err(format!(
            "{label:?} of {writer:?}, overtaken by {direct:?}: errno {errno:?}, not {expected:?}"
        )
        .into());
    }
    progress.saved(direct)?;
    match errno {
        None => progress.saved(label),
        Some(_) => progress.refused(label),
    }
}

/// Whoever of the two was first, whole is what is there.
fn two(progress: &mut Progress<'_>, first: Label) -> Result<()> {
    let mut both = [first, progress.next()].map(|label| (How::Truncate, label));
    // One that keeps the attributes of what it finds does not know which, unless
    // both keep the same or it reads the label.
    let sets_attributes = progress.one_in(2);
    for (how, label) in &mut both {
        if progress.last.is_some() && progress.one_in(2) {
            *how = How::Edit;
        } else if sets_attributes {
            label.attributes = own_version(progress, *label, ROOT);
        }
    }
    if sets_attributes && progress.one_in(2) {
        let (how, label) = &mut both[1];
        *how = How::Direct;
        label.attributes = own_version(progress, *label, ROOT);
    }
    let paths = writers::Paths {
        session: &progress.directory().join("session"),
        behind: &progress.behind(),
        report: &progress.arguments.report,
    };
    let ended = writers::two(&paths, both)?;
    if !ended.iter().any(|one| one.is_saved) {
        return Err(format!("both were refused: {both:?}").into());
    }
    for one in &ended {
        // The other one may have replaced it: either of them has to be there.
        let state = match one.is_saved {
            true => State::Saved(first.counter),
            false => State::Refused(one.label.counter),
        };
        progress.tell_of(progress.session, state, &one.position)?;
    }
    let there = progress.contents.read(&fs::read(paths.session)?)?;
    let is_there = |one: &writers::Ended| one.is_saved && one.label.counter == there.counter;
    if !ended.iter().any(is_there) {
        return Err(format!("{there:?} is there after {both:?}").into());
    }
    progress.last = Some(there);
    Ok(())
}

/// The old checkpoint stands, or the one of the save point.
fn killed(progress: &mut Progress<'_>, mut label: Label, is_later: bool) -> Result<()> {
    let session = progress.directory().join("session");
    let writer = any_writer(progress);
    if progress.last.is_none() {
        label.attributes = version(0, writer);
    }
    let save_point = is_later.then_some(label);
    if is_later {
        let attributes = label.attributes;
        label = progress.next();
        label.attributes = attributes;
    }
    let edited = progress
        .last
        .filter(|_| !is_later && progress.random.below(2) == 0);
    if let Some(last) = edited {
        let counter = label.counter;
        label = Label { counter, ..last };
    }
    // They must not be seen either. After a save point they would be its own as well
    // (DESIGN 4).
    if !is_later && progress.one_in(2) {
        label.attributes = own_version(progress, label, writer);
    }
    progress.refused(label)?;
    let endless = Endless {
        path: session.clone(),
        save_point,
        label,
        edit: edited.is_some(),
        pieces: 1 + progress.random.below(8),
    };
    let mut doomed = Doomed::start(&endless, writer)?;
    if let Some(label) = save_point {
        doomed.wait_for(b's')?;
        progress.saved(label)?;
    }
    doomed.wait_for(b'w')?;
    doomed.kill(&mut progress.random)?;
    // Whether that may be there is looked at after the cuts.
    let bytes = fs::read(session)?;
    match progress.contents.read(&bytes) {
        Ok(there) => progress.last = Some(there),
        Err(_) if bytes.is_empty() => progress.last = None,
        // What comes now needs a whole one.
        Err(_) => return save(progress, Way::Truncate),
    }
    Ok(())
}

fn command(progress: &Progress<'_>, label: Label) -> Result<()> {
    let mut child = Command::new(&progress.arguments.sessionfs)
        .args(["save", "--repository"])
        .arg(&progress.arguments.repository)
        .arg(name(progress.session))
        .stdin(Stdio::piped())
        .spawn()?;
    let fed = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(&progress.contents.make(label)),
        None => Ok(()),
    };
    let status = child.wait()?;
    fed?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("sessionfs save: {status}").into()),
    }
}

/// As careless programs do.
pub fn save_in_place(progress: &mut Progress<'_>) -> Result<()> {
    let label = progress.next();
    let path = progress.directory().join("session");
    let mut file = File::create(path)?;
    // As if it worked out what to write. On btrfs only a commit of the
    // whole filesystem brings an empty file to the disk.
    let a_while = Duration::from_micros(progress.random.below(5_000));
    std::thread::sleep(a_while);
    file.write_all(&progress.contents.make(label))?;
    file.sync_all()?;
    progress.saved(label)
}
