//! What a person or a scraper sees of the running daemon: socket, metrics, health.
