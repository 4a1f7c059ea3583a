//! The capabilities of a thread (capabilities(7)).

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::call::Result;

/// Whether a capability of this thread is effective (capabilities(7)); false if unknown.
pub fn is_capable_of(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Gives up `CAP_SYS_RESOURCE`, in this thread and in those that it starts. That
/// capability allows writing beyond quotas and into reserved blocks, whoever owns the
/// file (ext4_has_free_clusters, ignore_hardlimit; Linux 6.18).
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
