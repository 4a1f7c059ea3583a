//! What a checkpoint has beside its content: a mode, extended attributes and,
//! if the save that made it set them, a time. All of it follows from its label.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::XattrFlags;

use crate::content::Label;
use crate::random::Random;

/// One that has its place in the inode, and one that has not.
const SMALL: &str = "user.small";
const LARGE: &str = "user.large";

/// The mark of a save may stay on a checkpoint (DESIGN 3).
const MARK: &str = "user.sessionfs.staged";

struct Attributes {
    mode: u32,
    /// By name.
    xattrs: Vec<(&'static str, Vec<u8>)>,
}

impl Attributes {
    fn of(label: Label) -> Self {
        if label.attributes == 0 {
            // Of what is made without any, with the umask of the load.
            return Self {
                mode: 0o644,
                xattrs: Vec::new(),
            };
        }
        let mut random = Random::new(label.session << 20 ^ label.attributes);
        let mut value = |len: u64| (0..len).map(|_| random.next() as u8).collect();
        let small = value(24);
        let large = value(300 + label.attributes % 1500);
        Self {
            mode: [0o600, 0o640, 0o664, 0o755][(label.attributes % 4) as usize],
            xattrs: vec![(LARGE, large), (SMALL, small)],
        }
    }
}

/// The time that a save has set which has set the attributes as well. A later
/// one has its own.
fn time(label: Label) -> Option<Duration> {
    let is_set = label.attributes != 0 && label.attributes == label.counter;
    is_set.then(|| Duration::new(1_000_000_000 + label.counter, label.session as u32))
}

/// Sets them on a writer's file, whose label has them.
pub fn set(file: &File, label: Label) -> io::Result<()> {
    let attributes = Attributes::of(label);
    for (name, value) in &attributes.xattrs {
        rustix::fs::fsetxattr(file, *name, value, XattrFlags::empty())?;
    }
    file.set_permissions(Permissions::from_mode(attributes.mode))?;
    if let Some(time) = time(label) {
        file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + time))?;
    }
    Ok(())
}

/// What of a checkpoint with this label is not as it should be.
pub fn wrong(checkpoint: &Path, label: Label) -> io::Result<Option<String>> {
    let expected = Attributes::of(label);
    let metadata = fs::symlink_metadata(checkpoint)?;
    // Where it is staged under a name the sticky bit is the mark, which is taken off
    // when the save is durable, and may be on it again after a cut.
    let is_named = std::env::var_os("SESSIONFS_WITHOUT_TMPFILE").is_some();
    let mode = metadata.mode() & if is_named { 0o6777 } else { 0o7777 };
    if mode != expected.mode {
        return Ok(Some(format!("mode {mode:o}, not {:o}", expected.mode)));
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
