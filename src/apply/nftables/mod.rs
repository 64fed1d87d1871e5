//! `nf_tables` by nfnetlink: the tables that edgelb owns.
