//! The envelopes in which the API server sends objects: watch events, bookmarks, pages. The objects
//! in them stay text, so that one that cannot be read does not spoil the others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api_server::failure::Failure;

/// What marks the bookmark after the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// How far the server is, without an object.
#[derive(Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    pub(super) resource_version: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A list, or one page of it; its objects stay as they came.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    pub(super) r#continue: Option<String>,
}

impl BookmarkMetadata {
    /// Whether the initial events are complete with it.
    pub(super) fn ends_list(&self) -> bool {
        let value = self.annotations.get(INITIAL_EVENTS_END);
        value.is_some_and(|value| value == "true")
    }
}

/// Reads an envelope.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    parse_bytes(text.as_bytes())
}

/// Reads an envelope.
pub(super) fn parse_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Malformed(error.to_string()))
}
