//! When a host counts as up.
//!
//! Owns the two times that follow from each other: how long silence may last,
//! and how often a request is worth a write.

use crate::clock::Seconds;
use crate::store::nodes::Node;

/// How long a host counts as up after its last request, in seconds: longer
/// than the longest poll and the pause between two reports.
pub const CONTACT: Seconds = 180;
/// How old the recorded contact may get before it is written again, in seconds.
const WRITE_AFTER: Seconds = 15;

impl Node {
    /// Records a request of the host. After a silence it counts as up from now on.
    pub fn meet(&mut self, now: Seconds) {
        if now - self.last_contact > CONTACT {
            self.up_since = now;
        }
        self.last_contact = now;
    }

    /// Whether the recorded contact is old enough to be worth a write.
    #[must_use]
    pub fn needs_meeting(&self, now: Seconds) -> bool {
        now - self.last_contact >= WRITE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::node;

    #[test]
    fn a_silence_begins_the_count_anew() {
        let mut host = node(1);
        host.meet(100);
        assert_eq!((host.up_since, host.last_contact), (0, 100));
        host.meet(281);
        assert_eq!((host.up_since, host.last_contact), (281, 281));
    }
}
