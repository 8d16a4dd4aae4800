//! Members' claims about their files, in any form of answer: each content root is a claim, and may
//! have turned out to be wrong ([`Engine::disbelieve`](crate::download::Engine::disbelieve)).

use crate::budget::Held;
use crate::model::{Attributes, RelPath};
use crate::peer::{Matches, Watched};
use crate::protocol::wire::Listing;

/// An answer that describes files.
pub trait FileClaims {
    /// Passes every description to `check`.
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes));
}

impl FileClaims for Attributes {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        check(self);
    }
}

impl FileClaims for Listing {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        for entry in &mut self.entries {
            check(&mut entry.attributes);
        }
    }
}

impl FileClaims for Vec<(RelPath, Attributes)> {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        for (_, attributes) in self {
            check(attributes);
        }
    }
}

impl FileClaims for Matches {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        self.files.each_file(check);
    }
}

impl<T: FileClaims> FileClaims for Held<T> {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        self.value_mut().each_file(check);
    }
}

impl<T: FileClaims> FileClaims for Option<T> {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        if let Some(claims) = self {
            claims.each_file(check);
        }
    }
}

impl<T: FileClaims> FileClaims for Watched<T> {
    fn each_file(&mut self, check: &mut dyn FnMut(&mut Attributes)) {
        self.answer.each_file(check);
    }
}
