//! Whether this node was asked to give its VIPs up: kept in the state directory, so that neither a
//! restart nor a reboot takes them back, and told to whoever decides about ownership. Decides nothing
//! itself; a label on the Node asks for the same (`plan::ownership::drained_by_label`).

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::apply::state_directory::{Error, StateDirectory};

/// The flag. One task may set it while others watch.
#[derive(Debug)]
pub struct DrainFlag {
    state: Arc<StateDirectory>,
    flag: watch::Sender<bool>,
    /// The file and what is told never disagree.
    setting: Mutex<()>,
}

impl DrainFlag {
    /// As the last run left it.
    pub fn open(state: Arc<StateDirectory>) -> Result<Self, Error> {
        let (draining, warning) = state.read_drain()?;
        if let Some(warning) = warning {
            tracing::warn!(error = %warning, "whether this node is drained could not be read, it is not");
        }
        if draining {
            tracing::warn!("this node is drained and owns no vip until edgelb undrain");
        }
        Ok(Self {
            state,
            flag: watch::Sender::new(draining),
            setting: Mutex::new(()),
        })
    }

    /// Whether it is set, now and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.flag.subscribe()
    }

    /// The way to say that this node leaves: it gives its VIPs up as if it were drained, and the next run
    /// takes some again.
    pub fn leaving(&self) -> watch::Sender<bool> {
        self.flag.clone()
    }

    /// Sets it; first in the file, so that a crash in between does not forget what was asked for.
    /// Returns whether it was different. Waits for the disk.
    pub fn set(&self, draining: bool) -> Result<bool, Error> {
        // A panic elsewhere leaves nothing half-done: the file is replaced whole.
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.flag.borrow() == draining {
            return Ok(false);
        }
        self.state.write_drain(draining)?;
        self.flag.send_replace(draining);
        tracing::info!(draining, "drain");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_asked_for_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for (found, set) in [(false, true), (true, true), (true, false), (false, false)] {
            let (state, warnings) = StateDirectory::open(&path).unwrap();
            assert_eq!(warnings, []);
            let flag = DrainFlag::open(Arc::new(state)).unwrap();
            let mut watched = flag.watch();
            assert_eq!(*watched.borrow_and_update(), found);
            assert_eq!(flag.set(set).unwrap(), found != set);
            assert_eq!(watched.has_changed().unwrap(), found != set);
            assert_eq!(*watched.borrow(), set);
        }
    }

    #[test]
    fn a_flag_that_cannot_be_kept_is_not_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (state, _) = StateDirectory::open(&path).unwrap();
        let flag = DrainFlag::open(Arc::new(state)).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        flag.set(true).unwrap_err();
        assert!(!*flag.watch().borrow());
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        drop(StateDirectory::open(&path).unwrap());
        std::fs::write(path.join("drain.json"), "{").unwrap();
        let (state, _) = StateDirectory::open(&path).unwrap();
        assert!(!*DrainFlag::open(Arc::new(state)).unwrap().watch().borrow());
        assert!(path.join("drain.json.damaged").exists());
    }
}
