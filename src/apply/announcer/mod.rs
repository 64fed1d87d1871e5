//! Answers ARP for the VIPs that this node owns, and announces them after a take-over.
