//! Makes the kernel and the LAN equal to the plan; observes, compares, changes.

pub mod announcer;
pub mod ipvs;
pub mod monitor;
pub mod netlink;
pub mod nftables;
pub mod route;
pub mod state_directory;
pub mod sysctl;
