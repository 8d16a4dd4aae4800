//! One question to every member, under one deadline.

use std::sync::Arc;

use crate::error::Error;
use crate::types::PeerId;

/// What one member said, or why it said nothing.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// Who.
    pub member: PeerId,
    /// How that member is shown to people; unique in the network.
    pub name: Arc<str>,
    /// What. An [`Error`] with [`Error::is_absence`] says nothing about what the member has.
    pub result: Result<T, Error>,
}
