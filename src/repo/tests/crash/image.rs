//! What must hold for an image that a power cut has left.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Promise;
use super::disk::{Attributes, Image};
use crate::repo::tests::{Sandbox, Ways, get_xattr, set_xattr, xattr_names};
use crate::repo::{Kind, LockOwner, Repository, Result, SessionName, lock};
use crate::sys::fault;

/// A checkpoint: its content, and its attributes without the mark.
pub type Whole = (Vec<u8>, Attributes);

/// What the storage shows of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    checkpoint: Option<Whole>,
    lock: Option<LockOwner>,
    /// By path; no content of a directory.
    others: BTreeMap<String, Option<Vec<u8>>>,
}

/// By name.
pub type State = BTreeMap<String, Seen>;

/// What the storage shows of all sessions.
pub fn look(repository: &Repository) -> Result<State> {
    let mut state = State::new();
    for entry in repository.list()? {
        let session = repository.session(&entry.name)?;
        let dir = repository.path().join(entry.name.as_os_str());
        let checkpoint = match session.checkpoint()? {
            None => None,
            Some(checkpoint) => {
                let content = session.load()?;
                let stat = checkpoint.stat();
                let path = dir.join("session");
                let names = xattr_names(&path);
                let names = names.into_iter().filter(|name| !lock::is_mark(name));
                let attributes = Attributes {
                    mode: u32::from(stat.stx_mode) & 0o7777 & !lock::MARK_BIT,
                    owner: (stat.stx_uid, stat.stx_gid),
                    xattrs: names
                        .map(|name| (name.clone(), get_xattr(&path, &name).unwrap()))
                        .collect(),
                };
                Some((content, attributes))
            }
        };
        let mut others = BTreeMap::new();
        walk(&dir, "", &mut others);
        others.retain(|name, _| name != "session" && name != lock::NEXT);
        let lock = session.lock()?.map(|lock| lock.owner());
        let seen = Seen {
            checkpoint,
            lock,
            others,
        };
        let name = called(&entry.name);
        assert!(state.insert(name, seen).is_none(), "one at most");
    }
    Ok(state)
}

/// The name of a session; `create` names one by the time.
fn called(name: &SessionName) -> String {
    let name = name.to_string();
    if name.starts_with("pbox-") {
        return "pbox-".to_owned();
    }
    name
}

fn walk(dir: &Path, at: &str, into: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{at}{}", entry.file_name().to_str().unwrap());
        let is_dir = entry.file_type().unwrap().is_dir();
        if is_dir {
            walk(&entry.path(), &format!("{name}/"), into);
        }
        into.insert(
            name,
            (!is_dir).then(|| std::fs::read(entry.path()).unwrap()),
        );
    }
}

/// What must hold.
pub struct Expected<'a> {
    pub states: &'a [State],
    /// How many operations had returned.
    pub acknowledged: usize,
    pub promise: Promise,
    pub ways: Ways,
}

impl Expected<'_> {
    /// Writes the image to a disk, and checks how the storage works with it.
    pub fn check(
        &self,
        image: &Image,
        repository: &Path,
        sandbox: &Sandbox,
        scratch: &tempfile::TempDir,
    ) -> std::result::Result<(), String> {
        let top = scratch.path().join("disk");
        std::fs::create_dir(&top).unwrap();
        write(image, &top);
        let repository = repository.strip_prefix(sandbox.dir.path()).unwrap();
        let result = self.look_at(&Repository::new(top.join(repository)));
        std::fs::remove_dir_all(&top).unwrap();
        result
    }

    fn look_at(&self, repository: &Repository) -> std::result::Result<(), String> {
        let seen = look(repository).map_err(|e| format!("cannot be looked at: {e}"))?;
        let old = &self.states[self.acknowledged];
        let new = self.states.get(self.acknowledged + 1);
        let names = old.keys().chain(new.into_iter().flat_map(State::keys));
        for name in names {
            let is_optional =
                new.is_some_and(|new| !(old.contains_key(name) && new.contains_key(name)));
            if !seen.contains_key(name) && !is_optional {
                return Err(format!("I2: {name} is gone"));
            }
        }
        for (name, seen) in &seen {
            let allowed: Vec<Option<&Seen>> = match new {
                None => vec![old.get(name)],
                Some(new) => vec![old.get(name), new.get(name)],
            };
            if allowed.iter().all(Option::is_none) {
                return Err(format!("I2: {name} is there"));
            }
            // Without a session there is no checkpoint either.
            let whole = |seen: &Option<&Seen>| seen.and_then(|seen| seen.checkpoint.clone());
            let wholes: Vec<Option<Whole>> = allowed.iter().map(whole).collect();
            let may_be_partial = new.is_some() && self.promise == Promise::WholeAtTheEnd;
            if !may_be_partial && !wholes.contains(&seen.checkpoint) {
                return Err(format!(
                    "I1: {name} has {:?}, not one of {wholes:?}",
                    seen.checkpoint
                ));
            }
            let mut found = repository.list().unwrap().into_iter();
            let found = found.find(|entry| called(&entry.name) == *name).unwrap();
            let session = repository.session(&found.name).unwrap();

            // I4: the other names are those that were given on purpose, and those of
            // links.
            let links = session.debris().map_err(|e| e.to_string())?.links;
            for (other, content) in &seen.others {
                if links.iter().any(|link| link.to_str() == Some(other)) {
                    let is_whole = wholes
                        .iter()
                        .flatten()
                        .any(|(whole, _)| Some(whole) == content.as_ref());
                    if !is_whole {
                        return Err(format!("I4: {other} is no whole checkpoint"));
                    }
                } else if !allowed
                    .iter()
                    .flatten()
                    .any(|seen| seen.others.contains_key(other))
                {
                    return Err(format!("I4: {other} is there"));
                }
            }
            if new.is_none() && old.get(name).is_some_and(|old| old.others != seen.others) {
                return Err(format!("I2: in {name} is {:?}", seen.others));
            }
            let foreign = |seen: &&Seen| seen.lock == Some(LockOwner::Foreign);
            let may_be_foreign = allowed.iter().flatten().any(foreign);
            let is_foreign = foreign(&seen);
            if is_foreign && !may_be_foreign {
                return Err(format!("I4: the lock in {name} is not told to be ours"));
            }
            if new.is_none() && self.promise == Promise::NoLock && seen.lock.is_some() {
                return Err(format!("I2: the lock in {name} is there again"));
            }
            let save = || fault::with(self.ways.plan(|_, _| None), || session.save(b"next"));
            if is_foreign {
                match save() {
                    Err(e) if e.kind() == Kind::Locked => {}
                    other => return Err(format!("{name} is not locked: {other:?}")),
                }
                session.break_lock().map_err(|e| e.to_string())?;
            }
            save().map_err(|e| format!("I4: the next save of {name}: {e}"))?;
        }
        for left in repository.left_probes().unwrap() {
            let removed = repository.remove_dead_probe(&left.name);
            if !left.is_dead || removed != Ok(true) {
                return Err(format!("I4: {left:?} is left: {removed:?}"));
            }
        }
        let after = look(repository).unwrap();
        for (name, after) in &after {
            let content = after.checkpoint.as_ref().map(|(content, _)| &content[..]);
            if content != Some(b"next") || after.lock.is_some() || after.others != seen[name].others
            {
                return Err(format!("after the next save {name} is {after:?}"));
            }
        }
        if after.is_empty() {
            let made = repository
                .create("again-")
                .and_then(|made| made.save(b"next"));
            made.map_err(|e| format!("the next session: {e}"))?;
        }
        Ok(())
    }
}

fn write(image: &Image, top: &Path) {
    let mut written = BTreeMap::new();
    for (path, (id, attributes, content)) in &image.tree {
        let path = top.join(path);
        let Some(content) = content else {
            std::fs::create_dir(&path).unwrap();
            continue;
        };
        if let Some(first) = written.get(id) {
            std::fs::hard_link(first, &path).unwrap();
            continue;
        }
        std::fs::write(&path, content).unwrap();
        for (name, value) in &attributes.xattrs {
            set_xattr(&path, name, value);
        }
        if attributes.owner != (0, 0) {
            let (uid, gid) = attributes.owner;
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(attributes.mode)).unwrap();
        written.insert(*id, path);
    }
}
