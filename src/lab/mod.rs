//! A LAN of network namespaces with clients, edge nodes and workloads, for the demo and the tests.
