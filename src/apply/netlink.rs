//! Batched netlink requests over one socket; each error comes back to its request.
