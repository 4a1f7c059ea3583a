//! The capabilities of a thread (capabilities(7)).

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::call::Result;

/// Whether this thread has a capability in effect (capabilities(7)); not if nobody
/// can tell.
pub fn is_capable_of(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Gives up `CAP_SYS_RESOURCE`, in this thread and in those that it starts: it
/// writes beyond quotas and into reserved blocks, whosever the file is
/// (ext4_has_free_clusters, ignore_hardlimit; Linux 6.18).
pub fn obey_limits_of_space() -> Result<()> {
    let mut sets = capabilities(None)?;
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
    ] {
        set.remove(CapabilitySet::SYS_RESOURCE);
    }
    set_capabilities(None, sets)
}
