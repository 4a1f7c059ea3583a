//! What a checkpoint has beside its content: an owner, a mode, extended attributes
//! and, if the save that made it set them, a time. All of it follows from the
//! version that the label of the content names, so that a checkpoint whose content
//! and attributes are of two saves is recognised.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::content::Label;
use crate::random::Random;

/// One that has its place in the inode, one that has not, and one that only some
/// versions have.
const SMALL: &str = "user.small";
const LARGE: &str = "user.large";
const SOME: &str = "user.some";

/// The mark of a save may stay on a checkpoint (DESIGN 3).
const MARK: &str = "user.sessionfs.staged";

/// User and group of a process or a file.
pub type Owner = (u32, u32);

/// What a version says of the owner is the place in this list.
const OWNERS: [Owner; 4] = [(0, 0), (1001, 1001), (1002, 1003), (0, 1001)];
const OWNER_BITS: u64 = 2;

/// The mode of what is made without any, with the umask of the load.
const PLAIN: u32 = 0o644;
/// The others; the last one does not let its owner write.
const MODES: [u32; 5] = [0o600, 0o640, 0o664, 0o755, 0o440];

/// One of the owners, by chance.
pub fn any_owner(random: &mut Random) -> Owner {
    OWNERS[random.below(OWNERS.len() as u64) as usize]
}

/// The version of attributes that the save of a counter sets, 0 for what is made
/// without setting any.
pub fn version(counter: u64, owner: Owner) -> u64 {
    let place = OWNERS.iter().position(|it| *it == owner);
    counter << OWNER_BITS | place.unwrap_or_default() as u64
}

/// Whether the save with this label sets the attributes itself.
fn sets(label: Label) -> bool {
    let counter = label.attributes >> OWNER_BITS;
    counter != 0 && counter == label.counter
}

struct Attributes {
    owner: Owner,
    mode: u32,
    /// By name.
    xattrs: Vec<(&'static str, Vec<u8>)>,
}

impl Attributes {
    fn of(label: Label) -> Self {
        let owner = OWNERS[(label.attributes % (1 << OWNER_BITS)) as usize];
        let counter = label.attributes >> OWNER_BITS;
        if counter == 0 {
            return Self {
                owner,
                mode: PLAIN,
                xattrs: Vec::new(),
            };
        }
        let mut random = Random::new(label.session << 20 ^ counter);
        let mut value = |len: u64| (0..len).map(|_| random.next() as u8).collect();
        let small = value(24);
        let large = value(300 + counter % 1500);
        let mut xattrs = vec![(LARGE, large), (SMALL, small)];
        if counter.is_multiple_of(3) {
            xattrs.push((SOME, value(40)));
        }
        Self {
            owner,
            mode: MODES[(counter % MODES.len() as u64) as usize],
            xattrs,
        }
    }
}

/// The owner of a checkpoint with this label.
pub fn owner(label: Label) -> Owner {
    Attributes::of(label).owner
}

/// Whether a process of this user may write to it.
pub fn may_write(label: Label, (uid, gid): Owner) -> bool {
    let Attributes { owner, mode, .. } = Attributes::of(label);
    match () {
        () if uid == 0 => true,
        () if uid == owner.0 => mode & 0o200 != 0,
        () if gid == owner.1 => mode & 0o020 != 0,
        () => mode & 0o002 != 0,
    }
}

/// The time that a save has set which has set the attributes as well. A later
/// one has its own.
fn time(label: Label) -> Option<Duration> {
    sets(label).then(|| Duration::new(1_000_000_000 + label.counter, label.session as u32))
}

/// Sets them on a writer's file, whose label has them: for the middle of its
/// writes. If they are those of another save, nothing is done.
pub fn set(file: &File, label: Label) -> io::Result<()> {
    if !sets(label) {
        return Ok(());
    }
    let attributes = Attributes::of(label);
    for name in [LARGE, SMALL, SOME] {
        let value = attributes.xattrs.iter().find(|it| it.0 == name);
        match value {
            Some((_, value)) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?,
            None => match rustix::fs::fremovexattr(file, name) {
                Err(Errno::NODATA) => {}
                other => other?,
            },
        }
    }
    let is = file.metadata()?;
    let (uid, gid) = attributes.owner;
    if (is.uid(), is.gid()) != (uid, gid) {
        fchown(file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(attributes.mode))
}

/// Sets the time as well, after the last write.
pub fn set_time(file: &File, label: Label) -> io::Result<()> {
    match time(label) {
        Some(time) => file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + time)),
        None => Ok(()),
    }
}

/// What of a checkpoint with this label is not as it should be.
pub fn wrong(checkpoint: &Path, label: Label) -> io::Result<Option<String>> {
    let expected = Attributes::of(label);
    let metadata = fs::symlink_metadata(checkpoint)?;
    // The sticky bit is the mark of a file that is staged under a name, or in place
    // of a checkpoint which its owner may not write. It is taken off when the save is
    // durable, and may be on the file again after a cut.
    let mode = metadata.mode() & 0o6777;
    if mode != expected.mode {
        return Ok(Some(format!("mode {mode:o}, not {:o}", expected.mode)));
    }
    let owner = (metadata.uid(), metadata.gid());
    if owner != expected.owner {
        return Ok(Some(format!("owner {owner:?}, not {:?}", expected.owner)));
    }
    if let Some(time) = time(label) {
        let is = (metadata.mtime(), metadata.mtime_nsec());
        if is != (time.as_secs() as i64, time.subsec_nanos().into()) {
            return Ok(Some(format!("time {is:?}, not {time:?}")));
        }
    }
    let mut xattrs = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(checkpoint, &mut buffer[..])?;
    let names = String::from_utf8_lossy(&buffer[..len]).into_owned();
    // `security.*` is the system's.
    let is_user = |name: &&str| name.starts_with("user.") && *name != MARK;
    for name in names.split_terminator('\0').filter(is_user) {
        let len = rustix::fs::lgetxattr(checkpoint, name, &mut buffer[..])?;
        xattrs.push((name, buffer[..len].to_vec()));
    }
    xattrs.sort();
    if xattrs == expected.xattrs {
        return Ok(None);
    }
    let lengths = |xattrs: &[(&str, Vec<u8>)]| {
        let one = |(name, value): &(&str, Vec<u8>)| format!("{name} of {} bytes", value.len());
        xattrs.iter().map(one).collect::<Vec<_>>()
    };
    let (is, not) = (lengths(&xattrs), lengths(&expected.xattrs));
    Ok(Some(format!("attributes {is:?}, not {not:?}")))
}
