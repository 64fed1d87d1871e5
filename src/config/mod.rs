//! The TOML file: parsed exactly, validated as a whole, then a Config that is valid by construction.
