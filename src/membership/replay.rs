//! Which sequence numbers of one sender's session were seen, and on which way. Decides only whether a
//! datagram is new.

/// A datagram that is that much older than the newest one counts as a replayed one.
pub const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// By which way a datagram came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// UDP.
    Udp,
    /// A frame on a LAN.
    Lan,
}

/// Whether a datagram is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Never seen before.
    Fresh,
    /// Seen once, on the other way: every datagram is sent by all ways that are known.
    OtherWay,
    /// Seen on this way before, or too old to know.
    Replayed,
}

/// The last [`WINDOW`] sequence numbers.
#[derive(Debug, Clone)]
pub struct Window {
    highest: u64,
    seen: [[u64; WORDS]; 2],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            highest: 0,
            seen: [[0; WORDS]; 2],
        }
    }
}

impl Window {
    /// Notes the number and says whether it is new. Numbers begin with 1.
    pub fn accept(&mut self, sequence: u64, way: Way) -> Seen {
        if sequence == 0 || self.highest.saturating_sub(sequence) >= WINDOW {
            return Seen::Replayed;
        }
        if sequence > self.highest {
            self.advance(sequence);
        }
        let word = usize::try_from(sequence / 64).unwrap_or_default() % WORDS;
        let bit = 1_u64 << (sequence % 64);
        let [udp, lan] = &mut self.seen;
        let (this, other) = match way {
            Way::Udp => (udp, lan),
            Way::Lan => (lan, udp),
        };
        let Some(this) = this.get_mut(word) else {
            return Seen::Replayed;
        };
        if *this & bit != 0 {
            return Seen::Replayed;
        }
        *this |= bit;
        match other.get(word) {
            Some(other) if other & bit != 0 => Seen::OtherWay,
            _ => Seen::Fresh,
        }
    }

    fn advance(&mut self, to: u64) {
        if to - self.highest >= WINDOW {
            self.seen = [[0; WORDS]; 2];
        } else {
            for sequence in self.highest + 1..=to {
                let word = usize::try_from(sequence / 64).unwrap_or_default() % WORDS;
                for way in &mut self.seen {
                    if let Some(word) = way.get_mut(word) {
                        *word &= !(1_u64 << (sequence % 64));
                    }
                }
            }
        }
        self.highest = to;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_copy_is_told_from_a_replay() {
        let mut window = Window::default();
        assert_eq!(window.accept(0, Way::Udp), Seen::Replayed);
        assert_eq!(window.accept(5, Way::Udp), Seen::Fresh);
        assert_eq!(window.accept(5, Way::Lan), Seen::OtherWay);
        assert_eq!(window.accept(5, Way::Lan), Seen::Replayed);
        assert_eq!(window.accept(5, Way::Udp), Seen::Replayed);
        assert_eq!(window.accept(3, Way::Lan), Seen::Fresh);
        assert_eq!(window.accept(5 + WINDOW, Way::Udp), Seen::Fresh);
        assert_eq!(window.accept(5, Way::Lan), Seen::Replayed);
        assert_eq!(window.accept(6, Way::Lan), Seen::Fresh);
        assert_eq!(window.accept(u64::MAX, Way::Lan), Seen::Fresh);
        assert_eq!(window.accept(u64::MAX, Way::Udp), Seen::OtherWay);
    }

    proptest! {
        /// Against the plain set of everything that was ever seen.
        #[test]
        fn it_is_the_set_of_what_was_seen(
            numbers in prop::collection::vec((1_u64..4000, any::<bool>()), 0..400),
        ) {
            let mut window = Window::default();
            let mut seen: [BTreeSet<u64>; 2] = Default::default();
            let mut highest = 0;
            for (number, lan) in numbers {
                highest = highest.max(number);
                let (this, other) = (usize::from(lan), usize::from(!lan));
                let old = highest - number >= WINDOW;
                let expected = if old || seen[this].contains(&number) {
                    Seen::Replayed
                } else if seen[other].contains(&number) {
                    Seen::OtherWay
                } else {
                    Seen::Fresh
                };
                if !old {
                    seen[this].insert(number);
                }
                let way = if lan { Way::Lan } else { Way::Udp };
                prop_assert_eq!(window.accept(number, way), expected);
            }
        }
    }
}
