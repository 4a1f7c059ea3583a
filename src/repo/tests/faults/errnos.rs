//! The errnos with which each call may fail, by the manual pages.

use crate::sys::{Call, Errno};

/// Calls that find a file by a name, from path_resolution(7); with `EIO` and `ESTALE`,
/// which every filesystem may return.
const PATH: [Errno; 9] = [
    Errno::ACCESS,
    Errno::FAULT,
    Errno::IO,
    Errno::LOOP,
    Errno::NAMETOOLONG,
    Errno::NOENT,
    Errno::NOMEM,
    Errno::NOTDIR,
    Errno::STALE,
];

/// Calls on an open file.
const FILE: [Errno; 3] = [Errno::BADF, Errno::INVAL, Errno::IO];

pub fn of(call: Call) -> Vec<Errno> {
    use Errno as E;
    let (common, own): (&[Errno], &[Errno]) = match call {
        // open(2); EINTR and the quota are of those that create.
        Call::Open | Call::Reopen | Call::OpenTmpfile | Call::OpenBeneath => (
            &PATH,
            &[
                E::BADF,
                E::BUSY,
                E::DQUOT,
                E::EXIST,
                E::FBIG,
                E::INTR,
                E::INVAL,
                E::ISDIR,
                E::MFILE,
                E::NFILE,
                E::NODEV,
                E::NOSPC,
                E::NXIO,
                E::OPNOTSUPP,
                E::OVERFLOW,
                E::PERM,
                E::ROFS,
                E::TXTBSY,
                E::WOULDBLOCK,
            ],
        ),
        // statx(2)
        Call::Stat | Call::Fstat => (&PATH, &[E::BADF, E::INVAL]),
        // getdents(2)
        Call::ReadDir => (&FILE, &[E::FAULT, E::NOENT, E::NOTDIR, E::STALE]),
        // mkdir(2), mknod(2)
        Call::Mkdir => (
            &PATH,
            &[
                E::BADF,
                E::DQUOT,
                E::EXIST,
                E::INVAL,
                E::MLINK,
                E::NOSPC,
                E::OVERFLOW,
                E::PERM,
                E::ROFS,
            ],
        ),
        // link(2), symlink(2)
        Call::Link => (
            &PATH,
            &[
                E::BADF,
                E::DQUOT,
                E::EXIST,
                E::INVAL,
                E::MLINK,
                E::NOSPC,
                E::PERM,
                E::ROFS,
                E::XDEV,
            ],
        ),
        // rename(2)
        Call::Rename => (
            &PATH,
            &[
                E::BADF,
                E::BUSY,
                E::DQUOT,
                E::EXIST,
                E::INVAL,
                E::ISDIR,
                E::MLINK,
                E::NOSPC,
                E::NOTEMPTY,
                E::PERM,
                E::ROFS,
                E::XDEV,
            ],
        ),
        // unlink(2), rmdir(2)
        Call::Unlink => (
            &PATH,
            &[
                E::BADF,
                E::BUSY,
                E::INVAL,
                E::ISDIR,
                E::NOSPC,
                E::NOTEMPTY,
                E::PERM,
                E::ROFS,
            ],
        ),
        // fsync(2)
        Call::Fsync => (&FILE, &[E::DQUOT, E::INTR, E::NOSPC, E::ROFS]),
        // pread(2), read(2)
        Call::Read => (
            &FILE,
            &[
                E::FAULT,
                E::INTR,
                E::ISDIR,
                E::NXIO,
                E::OVERFLOW,
                E::SPIPE,
                E::STALE,
                E::WOULDBLOCK,
            ],
        ),
        // pwrite(2), write(2)
        Call::Write => (
            &FILE,
            &[
                E::DESTADDRREQ,
                E::DQUOT,
                E::FAULT,
                E::FBIG,
                E::INTR,
                E::NOSPC,
                E::NXIO,
                E::OVERFLOW,
                E::PERM,
                E::PIPE,
                E::SPIPE,
                E::STALE,
                E::WOULDBLOCK,
            ],
        ),
        // ftruncate(2)
        Call::Truncate => (
            &FILE,
            &[
                E::ACCESS,
                E::DQUOT,
                E::FBIG,
                E::INTR,
                E::ISDIR,
                E::NOSPC,
                E::PERM,
                E::ROFS,
                E::TXTBSY,
            ],
        ),
        // chmod(2), chown(2)
        Call::Chmod | Call::Chown => (
            &PATH,
            &[
                E::BADF,
                E::DQUOT,
                E::INVAL,
                E::NOSPC,
                E::OPNOTSUPP,
                E::PERM,
                E::ROFS,
            ],
        ),
        // utimensat(2)
        Call::Utimens => (&PATH, &[E::BADF, E::INVAL, E::PERM, E::ROFS, E::SRCH]),
        // getxattr(2), listxattr(2)
        Call::GetXattr => (
            &PATH,
            &[
                E::BADF,
                E::NODATA,
                E::OPNOTSUPP,
                E::PERM,
                E::RANGE,
                E::TOOBIG,
            ],
        ),
        // setxattr(2), removexattr(2)
        Call::SetXattr => (
            &PATH,
            &[
                E::BADF,
                E::DQUOT,
                E::EXIST,
                E::NODATA,
                E::NOSPC,
                E::OPNOTSUPP,
                E::PERM,
                E::RANGE,
                E::ROFS,
            ],
        ),
        // flock(2), and where there is none
        Call::Flock => (
            &FILE,
            &[E::INTR, E::NOLCK, E::NOSYS, E::OPNOTSUPP, E::WOULDBLOCK],
        ),
        // ioctl_ficlone(2), copy_file_range(2)
        Call::Copy => (
            &FILE,
            &[
                E::FBIG,
                E::INTR,
                E::ISDIR,
                E::NOMEM,
                E::NOSPC,
                E::NOSYS,
                E::OPNOTSUPP,
                E::OVERFLOW,
                E::PERM,
                E::TXTBSY,
                E::XDEV,
            ],
        ),
        // fallocate(2)
        Call::Allocate => (
            &FILE,
            &[
                E::DQUOT,
                E::FBIG,
                E::INTR,
                E::NODEV,
                E::NOSPC,
                E::NOSYS,
                E::OPNOTSUPP,
                E::PERM,
                E::SPIPE,
                E::TXTBSY,
            ],
        ),
        // lseek(2)
        Call::Seek => (&FILE, &[E::NXIO, E::OVERFLOW, E::SPIPE]),
    };
    let mut all = [common, own].concat();
    // A signal may come in any call that waits for a disk.
    if !all.contains(&E::INTR) {
        all.push(E::INTR);
    }
    all
}
