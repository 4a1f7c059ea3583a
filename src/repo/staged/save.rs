//! Saves of a session: in one call, or by a staged file.

use super::file::Staged;
use super::how::Base;
use crate::repo::checkpoint::Checkpoint;
#[cfg(doc)]
use crate::repo::error::Kind;
use crate::repo::error::Result;
use crate::repo::session::Session;

impl Session {
    /// Saves `bytes` as the new checkpoint, whatever the current one is.
    /// When it returns, the new checkpoint is in place and durable, or the old
    /// one is whole.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use sessionfs::repo::Repository;
    ///
    /// let repository = Repository::new(dir.path());
    /// let session = repository.create("demo-")?;
    /// session.save(b"first")?;
    /// session.save(b"second")?;
    /// assert_eq!(session.load()?, b"second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::Locked`] if another program is saving or has left its
    /// `session.next` behind, [`Kind::NotAFile`], [`Kind::NotDurable`] if
    /// only the last step failed, and [`Kind::Os`] with the errno.
    pub fn save(&self, bytes: &[u8]) -> Result<()> {
        self.save_over(Base::Any, bytes).map(drop)
    }

    /// Saves `bytes` as the new checkpoint, if `base` is the current one; `None` stands
    /// for no checkpoint. So an edit loses no update by another program:
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use sessionfs::repo::{Kind, Repository, Session};
    ///
    /// /// Adds 1 to the number in the checkpoint, whoever else is doing the same.
    /// fn count(session: &Session) -> Result<(), Box<dyn std::error::Error>> {
    ///     loop {
    ///         let base = session.checkpoint()?;
    ///         let number: u64 = match &base {
    ///             Some(checkpoint) => String::from_utf8(checkpoint.read()?)?.parse()?,
    ///             None => 0,
    ///         };
    ///         let next = (number + 1).to_string();
    ///         match session.replace(base.as_ref(), next.as_bytes()) {
    ///             Ok(_) => return Ok(()),
    ///             // Somebody else was faster, or is saving now: again, from theirs.
    ///             Err(e) if matches!(e.kind(), Kind::Superseded | Kind::Locked) => {}
    ///             Err(e) => return Err(e.into()),
    ///         }
    ///     }
    /// }
    ///
    /// let session = Repository::new(dir.path()).create("count-")?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..4 {
    ///         scope.spawn(|| count(&session).unwrap());
    ///     }
    /// });
    /// assert_eq!(session.load()?, b"4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::Superseded`] if `base` is not the current checkpoint, and as for
    /// [`save`](Self::save).
    pub fn replace(&self, base: Option<&Checkpoint>, bytes: &[u8]) -> Result<Checkpoint> {
        self.save_over(Base::Only(base), bytes)
    }

    fn save_over(&self, base: Base<'_>, bytes: &[u8]) -> Result<Checkpoint> {
        let staged = self.stage()?;
        staged.write_at(bytes, 0)?;
        staged.commit(base)
    }

    /// Begins a save: a new, empty staged file that no other program sees.
    ///
    /// # Errors
    /// [`Kind::Locked`], and [`Kind::Os`] with the errno.
    pub fn stage(&self) -> Result<Staged> {
        Staged::new(self).map_err(|e| self.tell(e))
    }
}
