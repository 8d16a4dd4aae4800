//! Gives each member a unique display name, however the members named themselves.
//!
//! A name that only one member uses stays as it is. Members that share one all get their short peer
//! id appended. Where even that clashes, because somebody chose such a name on purpose, they get
//! the whole id. Every node that knows the same members arrives at the same names.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::PeerId;

/// Returns the display name of each of `members`.
pub(crate) fn unique<'a>(
    members: impl IntoIterator<Item = (PeerId, &'a str)>,
) -> HashMap<PeerId, Arc<str>> {
    let mut shown: Vec<Shown<'_>> = members
        .into_iter()
        .map(|(id, name)| Shown::new(id, name))
        .collect();
    loop {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for one in &shown {
            *count.entry(&one.text).or_default() += 1;
        }
        let clashing: Vec<bool> = shown
            .iter()
            .map(|one| count.get(&*one.text) != Some(&1))
            .collect();
        let mut changed = false;
        for (one, clashes) in shown.iter_mut().zip(clashing) {
            changed |= clashes && one.lengthen();
        }
        if !changed {
            return shown
                .into_iter()
                .map(|one| (one.id, one.text.into()))
                .collect();
        }
    }
}

struct Shown<'a> {
    id: PeerId,
    name: &'a str,
    text: String,
    /// 0 for the bare name, 1 with the short id, 2 with the whole id.
    form: u8,
}

impl<'a> Shown<'a> {
    fn new(id: PeerId, name: &'a str) -> Self {
        Self {
            id,
            name,
            text: name.to_owned(),
            form: 0,
        }
    }

    /// Switches to the next longer form. Returns false when there is none.
    fn lengthen(&mut self) -> bool {
        let suffix = match self.form {
            0 => self.id.short(),
            1 => self.id.to_string(),
            _ => return false,
        };
        self.form += 1;
        self.text = format!("{}-{suffix}", self.name);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    #[test]
    fn only_namesakes_get_their_id_appended() {
        let names = unique([(id(1), "box"), (id(2), "box"), (id(3), "desk")]);
        assert_eq!(&*names[&id(1)], format!("box-{}", id(1).short()));
        assert_eq!(&*names[&id(2)], format!("box-{}", id(2).short()));
        assert_eq!(&*names[&id(3)], "desk");
    }

    proptest! {
        #[test]
        fn no_two_members_look_alike(
            picks in proptest::collection::vec((0u8..4, 0u8..4), 1..20),
        ) {
            let text = |(form, n): (u8, u8)| match form {
                0 => format!("box{}", n % 2),
                1 => format!("box0-{}", id(n).short()),
                2 => format!("box0-{}", id(n)),
                _ => format!("box0-{}-{}", id(n).short(), id(n + 1).short()),
            };
            let texts: Vec<String> = picks.into_iter().map(text).collect();
            let members = || (0u8..).map(id).zip(texts.iter().map(String::as_str));
            let names = unique(members());
            prop_assert_eq!(names.len(), texts.len());
            let distinct: HashSet<_> = names.values().cloned().collect();
            prop_assert_eq!(distinct.len(), texts.len());
            let mut backwards: Vec<_> = members().collect();
            backwards.reverse();
            prop_assert_eq!(unique(backwards), names);
        }
    }
}
