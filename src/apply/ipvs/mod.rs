//! IPVS by generic netlink: virtual servers, real servers, counters.
