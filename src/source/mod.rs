//! Where the cluster's objects and this host's facts come from.
