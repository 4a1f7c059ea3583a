//! Tests with any bytes as what a disk contains: no parser panics, and each agrees with a
//! simpler one.

use crate::fs::caller::credentials::acl_of_absent;

/// An ACL of a disk, with any content.
pub fn acl(input: &[u8]) {
    let found = acl_of_absent(input.to_vec());
    assert_eq!(found.len(), input.len());
    let whole = input.len().saturating_sub(4) / 8 * 8 + 4;
    for (n, (new, old)) in found.iter().zip(input).enumerate() {
        let is_permission = n >= 4 && n < whole && (n - 4) % 8 == 2;
        let expected = if is_permission {
            old & !0o1 | 0o4
        } else {
            *old
        };
        assert_eq!(*new, expected, "byte {n}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changed::{TRIES, try_changed};

    #[test]
    fn an_acl_of_a_directory_becomes_one_of_a_file() {
        try_changed("files", TRIES, acl);
    }
}
