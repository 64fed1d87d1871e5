//! The fence as the owner task sees it.

use std::net::IpAddr;

use imbl::OrdSet;

use crate::config::Config;
use crate::model::host::Host;
use crate::plan::ownership::table::VipTable;

/// Holds the fence, where there is one.
#[derive(Debug, Default)]
pub struct Guard {}

impl Guard {
    pub fn allow(&mut self, _: &Config, _: &VipTable, _: &Host, _: &OrdSet<IpAddr>) {}
    pub fn renew(&mut self) {}
    pub fn wants_repair(&self) -> bool {
        false
    }
}
