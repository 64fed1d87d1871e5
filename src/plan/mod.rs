//! Decides, purely: no clock, no I/O, no tokio.
