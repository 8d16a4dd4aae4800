//! (to be written)

/// A running node (to be written).
#[derive(Debug)]
pub struct Node;
