//! Who may speak at all.

/// placeholder
#[derive(Debug)]
pub struct Password;
